"""A network that delays, stalls and cuts, under real agents and a real coordinator: bounded, named, healed, nothing left open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from fleet.answering.views import GenerateRequest, GenerateResult, TokenChunk
from tests.support.fake_fleet import ask, deploy, wait_ready
from tests.support.proxied_fleet import LONG, proxied_fleet
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

SHORT = GenerateRequest(prompt_ids=(3, 1, 4, 1, 5), max_tokens=8)


async def to_its_end(parts: AsyncGenerator[TokenChunk | GenerateResult, None]) -> GenerateResult:
    async with asyncio.timeout(20):
        *_, result = [part async for part in parts]
    assert isinstance(result, GenerateResult)
    return result


async def test_a_slow_network_changes_no_text(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 3) as fleet:
        await deploy(fleet.coordinator, 3)
        expected = (await ask(fleet.coordinator, SHORT))[1].token_ids
        for box in fleet.boxes:
            box.proxy.delay_seconds = 0.01
        assert (await ask(fleet.coordinator, SHORT))[1].token_ids == expected


ONE_OF_THREE = [pytest.param(0, marks=pytest.mark.long), 1, pytest.param(2, marks=pytest.mark.long)]


@pytest.mark.parametrize("which", ONE_OF_THREE, ids=["head", "middle", "last"])
async def test_cut_links_are_a_pause(tmp_path: Path, which: int) -> None:
    """All links to one device: the coordinator's and its neighbour's."""
    async with proxied_fleet(tmp_path, 3) as fleet:
        await deploy(fleet.coordinator, 3)
        expected = (await ask(fleet.coordinator, LONG))[1].token_ids
        parts = fleet.coordinator.generate(LONG)
        await anext(parts)
        await fleet.boxes[which].proxy.cut()
        assert (await to_its_end(parts)).token_ids == expected
        [_, entry] = [*fleet.coordinator._generation._ledger._ended][-2:]
        assert all(any(box.name in attempt.error for box in fleet.boxes) for attempt in entry.attempts if attempt.error)


@pytest.mark.long
@pytest.mark.parametrize("which", ONE_OF_THREE, ids=["head", "middle", "last"])
async def test_a_stalled_device_is_noticed_and_the_answer_goes_on_when_it_is_back(tmp_path: Path, which: int) -> None:
    """A cable pulled says nothing: only that no beats come."""
    async with proxied_fleet(tmp_path, 3) as fleet:
        await deploy(fleet.coordinator, 3)
        expected = (await ask(fleet.coordinator, LONG))[1].token_ids
        parts = fleet.coordinator.generate(LONG)
        await anext(parts)
        fleet.boxes[which].proxy.stall()
        stalled = time.monotonic()
        answer = asyncio.create_task(to_its_end(parts))
        await wait_until(lambda: answer.done() or fleet.coordinator.requests()[0].state == "recovering")
        assert 1.0 < time.monotonic() - stalled < 4.0  # 2 s where nothing else computes
        fleet.boxes[which].proxy.resume()
        assert (await answer).token_ids == expected
        await wait_ready(fleet.coordinator)


async def test_a_short_stall_is_only_a_pause(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 2) as fleet:
        await deploy(fleet.coordinator, 2)
        expected = (await ask(fleet.coordinator, LONG))[1].token_ids
        parts = fleet.coordinator.generate(LONG)
        await anext(parts)
        fleet.boxes[1].proxy.stall()
        await asyncio.sleep(0.3)
        fleet.boxes[1].proxy.resume()
        *_, result = [part async for part in parts]
        assert result.token_ids == expected


@pytest.mark.long
async def test_a_push_over_links_that_break_is_continued(tmp_path: Path) -> None:
    """Each connection lives for a part of what is to be sent."""
    async with proxied_fleet(tmp_path, 1) as fleet:
        proxy = fleet.boxes[0].proxy
        proxy.lives = [100_000, 100_000]
        await proxy.cut()
        await wait_until(lambda: len(proxy.lives) < 2 and fleet.coordinator.devices()[0].state == "online")
        events = await deploy(fleet.coordinator, 1)
        assert events[-1].kind == "ready"
        assert proxy.lives == []
        assert not list((fleet.boxes[0].state / "blobs" / "incoming").iterdir())
        assert (await ask(fleet.coordinator, SHORT))[1].completion_tokens == 8


async def test_a_device_that_answers_elsewhere_is_found_by_its_neighbour(tmp_path: Path) -> None:
    """A new lease: the agent goes on, with its stage, at another address."""
    async with proxied_fleet(tmp_path, 2) as fleet:
        await deploy(fleet.coordinator, 2)
        expected = (await ask(fleet.coordinator, SHORT))[1].token_ids
        moved = fleet.boxes[1]
        target = moved.proxy.target
        async with Proxy(target) as elsewhere:
            await moved.proxy.__aexit__(None, None, None)  # nobody listens there any more
            fleet.coordinator._registry.found(moved.device, (elsewhere.address,), "mdns")
            await wait_until(lambda: {view.address for view in fleet.coordinator.devices()} >= {elsewhere.address})
            async with asyncio.timeout(20):
                assert await fleet.answer(SHORT) == expected
            await wait_ready(fleet.coordinator)
