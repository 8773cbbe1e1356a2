"""Log probabilities against plain ones, and against what transformers computes of the same checkpoint."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from device.pipeline.logprobs import Logprobs, logprobs
from protos.v1 import pipeline_pb2 as pb
from tests.support.checkpoints import TinyGlm
from tests.support.goldens import import_golden, reference
from tests.support.ring import ring, tiny_model


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    values = logits.astype(np.float64)
    shifted: npt.NDArray[np.float64] = values - values.max()
    return shifted - np.log(np.exp(shifted).sum())


def test_they_are_the_log_softmax_and_the_likeliest_come_first() -> None:
    logits = np.random.default_rng(1).normal(0, 3, 1000).astype(np.float32)
    logits[[7, 3]] = logits.max() + 1  # as likely as each other: by id
    expected = log_softmax(logits)
    found = logprobs(logits, 500, 4)
    assert found.ids[:2] == (3, 7)
    assert list(found.values) == pytest.approx(expected[list(found.ids)])
    assert list(found.values) == pytest.approx(sorted(expected, reverse=True)[:4])
    assert found.chosen == pytest.approx(expected[500])
    assert logprobs(logits, 500, 0) == Logprobs(found.chosen)


def test_more_than_there_are_and_numbers_that_are_none() -> None:
    assert logprobs(np.array([1.0, 2.0], np.float32), 0, 20).ids == (1, 0)
    odd = logprobs(np.array([np.nan, 2.0, -np.inf, np.inf], np.float32), 1, 4)
    assert not np.isnan(odd.values).any()
    assert odd.ids[0] == 3


@pytest.mark.parametrize("stages", [1, 3])
async def test_they_are_those_of_transformers_whatever_the_cut(tmp_path: Path, stages: int) -> None:
    """Of a checkpoint that was not rounded to 8 bits, so that nothing but arithmetic differs; within 1e-3."""
    ids, logits = reference("glm-edge")
    model = import_golden("glm-edge", tmp_path, bits=32)
    async with ring(tmp_path, *model, stages) as some, some.client() as client:
        for prompt, rows in zip(ids, logits, strict=True):
            answer = await client.ask(prompt.tolist(), 1, logprobs=5, temperature=1.0, seed=3, logit_bias=[pb.TokenBias(id=9, bias=100)])
            expected = log_softmax(rows[-1])
            (found,) = answer.logprobs
            assert answer.token_ids == [9], "what changes the choice does not change what is told"
            assert found.chosen == pytest.approx(expected[9], abs=1e-3)
            assert list(found.values) == pytest.approx(expected[list(found.ids)], abs=1e-3)
            assert min(found.values) >= sorted(expected)[-5] - 1e-3


async def test_they_are_told_of_each_token_to_whoever_asks_and_again_in_a_replay(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, TinyGlm(layers=3))
    found = []
    for stages in (1, 3):
        async with ring(tmp_path / str(stages), *model, stages) as some, some.client() as client:
            asked, silent = await asyncio.gather(client.ask([5, 6, 7], 12, logprobs=2), client.ask([5, 6, 7], 12))
            assert asked.token_ids == silent.token_ids
            assert (len(asked.logprobs), silent.logprobs) == (12, [])
            replay = await client.ask([5, 6, 7], 12, logprobs=2, forced=asked.token_ids[:8])
            assert replay.logprobs == asked.logprobs[8:]
            found.append(asked.logprobs)
    assert found[0] == found[1]
