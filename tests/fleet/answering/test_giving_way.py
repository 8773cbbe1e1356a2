"""Readers that take nothing while others wait for a slot give theirs up, and lose nothing by it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.answering.views import GenerateResult, TokenChunk
from fleet.deploying import stream
from fleet.deploying.stream import TokenStream, who_gives_way
from fleet.planning.plan import PlanRequest
from tests.support.fake_fleet import ask
from tests.support.proxied_fleet import LONG as USUAL
from tests.support.proxied_fleet import proxied_fleet

LONG = replace(USUAL, max_tokens=60)


def reader(number: int, since: float | None) -> TokenStream:
    made = TokenStream(number, lambda message: None)
    made.paused_since = since
    return made


@pytest.mark.parametrize(
    ("since", "waiting", "numbers"),
    [
        ([None, None], 2, []),  # they read
        ([9.0, 7.0], 1, [1]),
        ([7.0, 6.0, None], 5, [1, 0]),  # the longest first
        ([7.0, 6.0], 1, [1]),
        ([6.0, 6.0], 1, [0]),
        ([8.1], 1, []),  # it may just be slow
        ([8.0], 1, [0]),
    ],
)
def test_who_gives_way(since: list[float | None], waiting: int, numbers: list[int]) -> None:
    readers = [reader(number, one) for number, one in enumerate(since)]
    assert [one.number for one in who_gives_way(readers, waiting, 10.0)] == numbers


async def test_others_are_answered_meanwhile_and_the_answer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "WAITING_TOKENS", 2)
    monkeypatch.setattr(stream, "PATIENCE_SECONDS", 0.2)
    async with proxied_fleet(tmp_path, 2) as fleet:
        async for _ in fleet.coordinator.deploy(PlanRequest("tiny", stages=2, slots=2)):
            pass
        _, whole = await ask(fleet.coordinator, LONG)
        slots = fleet.coordinator._deployments.choose("tiny").spec.slots
        deaf = [fleet.coordinator.generate(LONG) for _ in range(slots)]
        first = [await anext(parts) for parts in deaf]
        async with asyncio.timeout(20):  # they would hold all slots for ever
            others = await asyncio.gather(*(ask(fleet.coordinator, LONG) for _ in range(2)))
        assert [other.token_ids for _, other in others] == [whole.token_ids] * 2
        for chunk, parts in zip(first, deaf, strict=True):
            *chunks, result = [part async for part in parts]
            assert isinstance(result, GenerateResult)
            ids = [token for one in (chunk, *chunks) if isinstance(one, TokenChunk) for token in one.token_ids]
            assert tuple(ids) == result.token_ids == whole.token_ids
            assert (result.recoveries, result.finish_reason) == (0, whole.finish_reason)
            assert [cost.device_id for cost in result.devices] == [cost.device_id for cost in whole.devices]
