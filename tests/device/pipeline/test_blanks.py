"""A model whose prefix runs whole: the fill does not depend on the cut or on company, and is the original code's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from protos.errors import InvalidInput
from protos.manifest import Manifest
from protos.v1 import pipeline_pb2
from quantize.artifact.store import ArtifactStore
from tests.support.blanks import Expected, blank_model, expected
from tests.support.ring import Answer, Client, ring


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, ArtifactStore]:
    return blank_model(tmp_path_factory.mktemp("model"))


async def fill(client: Client, case: Expected, count: int = 24) -> Answer:
    return await client.ask(case.prompt, count, prefix=case.prefix, spans=case.spans)


async def test_fp32_fills_are_the_original_codes(tmp_path: Path) -> None:
    manifest, store = blank_model(tmp_path, bits=32)
    async with ring(tmp_path / "ring", manifest, store, 2, chunk=128) as two, two.client() as client:
        answers = await asyncio.gather(*(fill(client, case, 32) for case in expected()))
        assert [answer.token_ids for answer in answers] == [case.greedy for case in expected()]
        for answer, case in zip(answers, expected(), strict=True):
            assert answer.finished
            assert (answer.finished.timing.prompt_tokens, answer.finished.timing.completion_tokens) == (case.prefix + 1, 32)
            assert {(usage.prefill_rows, usage.decode_rows) for usage in answer.finished.usage} == {(case.prefix, 32)}


@pytest.mark.parametrize("stages", [2, 3])
async def test_cut_and_company_do_not_change_the_fill(tmp_path: Path, model: tuple[Manifest, ArtifactStore], stages: int) -> None:
    async with ring(tmp_path / "one", *model, 1, chunk=128) as one, one.client() as client:
        alone = [(await fill(client, case)).token_ids for case in expected()]
    async with ring(tmp_path / "many", *model, stages, chunk=128) as many, many.client() as client:
        assert [(await fill(client, case)).token_ids for case in expected()] == alone
        together = await asyncio.gather(*(fill(client, case) for case in expected() * 3))
        assert [answer.token_ids for answer in together] == alone * 3
        assert await many.open_sequences() == 0


async def test_the_same_prefix_is_taken_over_and_none_that_only_begins_alike(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    case = expected()[3]
    async with ring(tmp_path, *model, 2, chunk=128) as two, two.client() as client:
        first, again = await fill(client, case), await fill(client, case)
        assert first.token_ids == again.token_ids
        assert first.finished
        assert again.finished
        assert (first.finished.timing.reused_tokens, again.finished.timing.reused_tokens) == (0, case.prefix)
        longer = [*case.prompt[:-1], 7, case.prompt[-1]]
        other = await client.ask(longer, 8, prefix=case.prefix + 1, spans=[pipeline_pb2.Span(start=case.prefix + 1, anchor=case.blank)])
        assert other.finished
        assert other.finished.timing.reused_tokens == 0


async def test_a_later_blank_sees_earlier_fills(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    """Known rows behind the prefix go through the decode path: replayed, they are the rows that decoding made."""
    case = expected()[1]
    async with ring(tmp_path, *model, 2, chunk=128) as two, two.client() as client:
        whole = (await fill(client, case)).token_ids
        rest = await client.ask([*case.prompt, *whole[:9]], 15, prefix=case.prefix, spans=case.spans)
        assert rest.token_ids == whole[9:]
        start = case.prefix + 10
        second = pipeline_pb2.Span(start=start, anchor=3)
        other = await client.ask([*case.prompt, *whole[:9], 501], 8, prefix=case.prefix, spans=[*case.spans, second])
        assert len(other.token_ids) == 8
        assert other.token_ids != rest.token_ids[:8]


async def test_what_does_not_fit_is_refused(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    case = expected()[1]
    span = pipeline_pb2.Span
    async with ring(tmp_path, *model, 1, chunk=64) as one, one.client() as client:
        bad = await asyncio.gather(
            client.ask(case.prompt, 5),
            client.ask(case.prompt, 5, prefix=case.prefix),
            client.ask(case.prompt, 5, prefix=len(case.prompt), spans=case.spans),
            client.ask(case.prompt, 5, prefix=case.prefix, spans=[span(start=case.prefix, anchor=case.prefix)]),
            client.ask(case.prompt, 5, prefix=case.prefix, spans=[span(start=1, anchor=0)]),
            client.ask([1] * 70, 5, prefix=66, spans=[span(start=66, anchor=0)]),
        )
        assert all(isinstance(answer.error, InvalidInput) for answer in bad)
        assert len((await fill(client, case, 5)).token_ids) == 5
