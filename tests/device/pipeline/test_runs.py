"""Decoding by runs: the text does not depend on drafts, on the cut, on company, nor on who made the rows before."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from protos.dtypes import KvDtype
from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore
from tests.support.checkpoints import TinyGlm
from tests.support.goldens import import_golden
from tests.support.grammars import END, lark, told
from tests.support.ring import Client, ring, tiny_model

SHAPE = TinyGlm(layers=4)
CONTEXT = 128
# Prompts that repeat themselves, and a short one.
PROMPTS = [[*range(5, 25), *range(5, 17)], [9], [7, 7, 7, 7, 8, 7, 7, 7]]
WAYS: list[dict[str, Any]] = [{}, {"temperature": 0.3, "seed": 11}, {"repetition_penalty": 1.1, "logit_bias": []}]
TOKENS = 30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, ArtifactStore]:
    return tiny_model(tmp_path_factory.mktemp("model"), SHAPE)


def asked(client: Client, **more: Any) -> list[Any]:
    return [client.ask(prompt, TOKENS, **way, **more) for prompt in PROMPTS for way in WAYS]


async def undrafted(folder: Path, model: tuple[Manifest, ArtifactStore], **shape: Any) -> list[list[int]]:
    """One after the other, on one stage."""
    async with ring(folder, *model, 1, decode="pairs", **shape) as one, one.client() as client:
        return [(await answer).token_ids for answer in asked(client, undrafted=True)]


@pytest.mark.parametrize("stages", [1, 2, pytest.param(3, marks=pytest.mark.long)])
async def test_drafts_cut_and_company_do_not_change_the_text(tmp_path: Path, model: tuple[Manifest, ArtifactStore], stages: int) -> None:
    expected = await undrafted(tmp_path / "one", model)
    async with ring(tmp_path / "many", *model, stages, decode="pairs", slots=6) as many, many.client() as client:
        answers = await asyncio.gather(*asked(client))
        assert [answer.token_ids for answer in answers] == expected
        assert [answer.indices for answer in answers] == [list(range(TOKENS))] * len(answers)
        timings = [answer.finished.timing for answer in answers]
        assert sum(timing.accepted_tokens for timing in timings) > 10, "else nothing was tried"
        for answer in answers:
            timing, rows = answer.finished.timing, {one.decode_rows for one in answer.finished.usage}
            assert rows == {TOKENS - 1 - timing.accepted_tokens + timing.drafted_tokens}
            rejected = {one.rejected_rows for one in answer.finished.usage}
            assert rejected == {timing.drafted_tokens - timing.accepted_tokens}
        await many.all_freed()


async def test_what_was_decoded_serves_as_if_it_were_prefilled(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    """An earlier turn's answer is a prefix of the next, and an answer whose rows are lost goes on behind a prefill."""
    prompt = PROMPTS[0]
    async with ring(tmp_path / "cold", *model, 2, decode="pairs") as cold, cold.client() as client:
        answer = (await client.ask(prompt, TOKENS)).token_ids
    turn = [*prompt, *answer, 3, 4, 5]
    async with ring(tmp_path / "cold again", *model, 1, decode="pairs") as cold, cold.client() as client:
        expected = (await client.ask(turn, 20)).token_ids
        for known in (1, 2, 17, 29):
            replayed = await client.ask(prompt, TOKENS, forced=answer[:known])
            assert replayed.token_ids == answer[known:]
            assert replayed.finished
            assert replayed.finished.timing.forced_prefilled == 0, "which says that it is exact"
    async with ring(tmp_path / "warm", *model, 2, decode="pairs") as warm, warm.client() as client:
        assert (await client.ask(prompt, TOKENS)).token_ids == answer
        second = await client.ask(turn, 20)
        assert second.token_ids == expected
        assert second.finished
        assert second.finished.timing.reused_tokens >= len(prompt) + len(answer) - 2


@pytest.mark.parametrize(
    ("name", "kv_dtype"),
    [
        ("tiny", "int8"),
        ("glm-4.7-flash", "float32"),
        pytest.param("glm-4.5", "float32", marks=pytest.mark.long),
        pytest.param("glm-4.5-groups", "float32", marks=pytest.mark.long),
        pytest.param("glm-4.7-flash-plain", "int8", marks=pytest.mark.long),
    ],
)
async def test_other_models_and_caches_are_as_exact(
    tmp_path: Path, model: tuple[Manifest, ArtifactStore], name: str, kv_dtype: KvDtype
) -> None:
    chosen = model if name == "tiny" else import_golden(name, tmp_path)
    expected = await undrafted(tmp_path / "one", chosen, kv_dtype=kv_dtype)
    async with ring(tmp_path / "many", *chosen, 2, decode="pairs", chunk=6, kv_dtype=kv_dtype) as many, many.client() as client:
        answers = await asyncio.gather(*asked(client))
        assert [answer.token_ids for answer in answers] == expected


async def test_a_grammars_forced_text_goes_in_without_a_step_for_each_token(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    call = {"name": {"const": "get_weather"}, "unit": {"enum": ["celsius", "fahrenheit"]}, "days": {"type": "boolean"}}
    schema = {"type": "object", "properties": call, "required": list(call), "additionalProperties": False}
    way = {"grammar": lark(schema), "stops": [END, END + 1], "temperature": 1.0}
    async with ring(tmp_path, *model, 2, decode="pairs") as two, two.client() as client:
        await client.tell(told())
        steps = tokens = 0
        for seed in range(4):
            plain = await client.ask([1, 2, 3], 100, undrafted=True, seed=seed, **way)
            drafted = await client.ask([1, 2, 3], 100, seed=seed, **way)
            assert drafted.token_ids == plain.token_ids
            assert json.loads(bytes(drafted.token_ids))["name"] == "get_weather"
            assert drafted.finished
            tokens += len(drafted.token_ids)
            steps += len(drafted.token_ids) - drafted.finished.timing.accepted_tokens
        assert tokens > 3 * steps


async def test_ends_are_where_they_would_be(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    """By a stop token, by the count of tokens, and at the context's end, also in the midst of a draft."""
    prompt = PROMPTS[0]
    async with ring(tmp_path, *model, 1, decode="pairs", context=CONTEXT) as one, one.client() as client:
        whole = (await client.ask(prompt, 1000, undrafted=True)).token_ids
        assert len(prompt) + len(whole) == CONTEXT
        assert (await client.ask(prompt, 1000)).token_ids == whole
        for count in (1, 2, 3, 30):
            assert (await client.ask(prompt, count)).token_ids == whole[:count]
        for stop in sorted(set(whole))[:8]:
            assert (await client.ask(prompt, 1000, stops=[stop])).token_ids == whole[: whole.index(stop)]
        rated = await client.ask(prompt, 30, logprobs=2)
        assert rated.token_ids == whole[:30]
        assert [one.ids[0] for one in rated.logprobs] == whole[:30]
