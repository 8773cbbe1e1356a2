"""What is told of a prompt's own tokens, against transformers, whatever the cut, the chunks and the company."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device.pipeline.rounds import RATED_ROWS
from protos.errors import InvalidInput
from protos.manifest import Manifest
from protos.v1 import pipeline_pb2 as pb
from quantize.artifact.store import ArtifactStore
from quantize.parts import find_part
from tests.device.pipeline.test_logprobs import log_softmax
from tests.support.checkpoints import TinyGlm
from tests.support.goldens import import_golden, reference
from tests.support.ring import Answer, ring, tiny_model

READ: dict[str, Any] = {"prompt_logprobs": 3, "embedding": True}


def rates(answer: Answer) -> list[tuple[float, list[int], list[float]]]:
    return [(one.chosen, list(one.ids), list(one.values)) for one in answer.prompt_logprobs]


def head_matrix(manifest: Manifest, store: ArtifactStore) -> npt.NDArray[np.float32]:
    """[V, H] of an artifact that was not rounded."""
    variant = find_part(manifest, "head").variants[0]
    (stored,) = (tensor for tensor in variant.tensors if tensor.name == "weight")
    data = store.blob_path(variant.blobs[stored.blob].digest).read_bytes()
    return np.frombuffer(data, np.float32, stored.size_bytes // 4, stored.offset).reshape(stored.shape)


@pytest.mark.parametrize("stages", [1, 3])
async def test_log_probabilities_are_those_of_transformers_whatever_the_cut(tmp_path: Path, stages: int) -> None:
    ids, logits = reference("glm-edge")
    model = import_golden("glm-edge", tmp_path, bits=32)
    async with ring(tmp_path, *model, stages, chunk=4) as some, some.client() as client:
        for prompt, rows in zip(ids, logits, strict=True):
            answer = await client.ask(prompt.tolist(), 0, prompt_logprobs=4)
            assert answer.finished is not None
            assert (answer.token_ids, answer.finished.reason) == ([], pb.FINISH_REASON_LENGTH)
            assert len(answer.prompt_logprobs) == len(prompt) - 1
            for token, row, found in zip(prompt[1:], rows, answer.prompt_logprobs, strict=False):
                expected = log_softmax(row)
                assert found.chosen == pytest.approx(expected[token], abs=1e-3)
                assert list(found.values) == pytest.approx(sorted(expected, reverse=True)[:4], abs=1e-3)
                assert list(found.values) == pytest.approx(expected[list(found.ids)], abs=1e-3)


@pytest.mark.parametrize("stages", [1, 3])
async def test_the_embedding_is_the_mean_of_the_rows_that_enter_the_output_matrix(tmp_path: Path, stages: int) -> None:
    """The matrix is linear: of the mean it makes the mean of transformers' logits."""
    ids, logits = reference("glm-edge")
    model = import_golden("glm-edge", tmp_path, bits=32)
    matrix = head_matrix(*model)
    async with ring(tmp_path, *model, stages, chunk=4) as some, some.client() as client:
        for prompt, rows in zip(ids, logits, strict=True):
            answer = await client.ask(prompt.tolist(), 0, embedding=True)
            assert matrix @ np.array(answer.embedding) == pytest.approx(rows.mean(axis=0), abs=1e-3)
            assert answer.prompt_logprobs == []


async def test_neither_cut_nor_chunks_nor_company_change_a_bit_of_it_nor_it_the_text(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, TinyGlm(layers=3))
    prompt = list(range(5, 5 + 3 * RATED_ROWS + 5))
    others: Sequence[list[int]] = ([7, 8, 9], prompt[:20], prompt)
    found = []
    for stages, chunk in ((1, 16), (3, 16), (3, 4), (1, 64)):
        async with ring(tmp_path / f"{stages}-{chunk}", *model, stages, chunk=chunk) as some, some.client() as client:
            silent = await client.ask(prompt, 6, logprobs=1)
            told, *_ = await asyncio.gather(client.ask(prompt, 6, logprobs=1, **READ), *(client.ask(one, 9) for one in others))
            assert (told.token_ids, told.logprobs) == (silent.token_ids, silent.logprobs)
            assert told.finished is not None
            assert told.finished.timing.reused_tokens == 0, "rows that others made tell nothing"
            found.append((rates(told), told.embedding))
            again = await client.ask(prompt, 1)
            assert again.finished is not None
            assert again.finished.timing.reused_tokens > 0, "and what it made serves others"
            await some.all_freed()
    assert len(found[0][0]) == len(prompt) - 1
    assert found.count(found[0]) == len(found)


async def test_a_rated_token_is_rated_as_it_is_when_it_comes(tmp_path: Path) -> None:
    """Of prefill and of decode: to the rounding of the two kinds of run."""
    async with ring(tmp_path, *tiny_model(tmp_path, TinyGlm(layers=3)), 2) as some, some.client() as client:
        answer = await client.ask([5, 6, 7], 9, logprobs=2)
        rated = await client.ask([5, 6, 7, *answer.token_ids], 0, prompt_logprobs=2)
        assert [one.chosen for one in rated.prompt_logprobs[2:]] == pytest.approx([one.chosen for one in answer.logprobs], abs=1e-2)


async def test_a_single_token_has_no_log_probability_and_an_embedding(tmp_path: Path) -> None:
    async with ring(tmp_path, *tiny_model(tmp_path, TinyGlm(layers=3)), 2) as some, some.client() as client:
        answer = await client.ask([5], 2, **READ)
        assert answer.prompt_logprobs == []
        assert len(answer.embedding) == TinyGlm().hidden_size
        assert len(answer.token_ids) == 2


async def test_too_many_likeliest_and_a_stage_without_its_norm_are_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, TinyGlm(layers=3))
    async with ring(tmp_path, *model, 1) as some:
        async with some.client() as client:
            error = (await client.ask([5, 6], 0, prompt_logprobs=21)).error
            assert isinstance(error, InvalidInput)
            assert "prompt_logprobs is 21" in error.detail
        await some.agents[0].__aexit__(None, None, None)
        some.requests[0].norm_graph = b""  # as a coordinator of the release before has it
        await some.restart(0)
        async with some.client() as client:
            error = (await client.ask([5, 6], 0, embedding=True)).error
            assert isinstance(error, InvalidInput)
            assert "deploy the model anew" in error.detail
            assert len((await client.ask([5, 6], 3)).token_ids) == 3
