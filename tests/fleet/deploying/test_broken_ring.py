"""A pipeline whose ring broke is ready again when the ring connects, not before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fleet.answering.views import GenerateRequest
from protos.errors import InvalidInput, Unavailable
from tests.support.fake_fleet import ask, fake_fleet, wait_ready
from tests.support.waiting import wait_until

HI = GenerateRequest(prompt="hi")
SILENT = Unavailable("dev-2 is silent")


async def test_it_is_attaching_until_the_head_connects_the_ring(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=2) as coordinator:
        head, _ = fleet.devices
        head.is_told.failure, head.is_told.holds["Generate"] = SILENT, asyncio.Event()
        with pytest.raises(Unavailable, match="dev-2 is silent"):
            await ask(coordinator, HI)
        [view] = coordinator.deployments()
        assert view.state == "degraded"
        assert "dev-2 is silent" in view.detail
        await wait_until(lambda: head.calls.count("Generate") == 2)
        [view] = coordinator.deployments()
        assert view.state == "degraded"
        assert "dev-2 is silent" in view.detail  # still: that we began the stream anew is no reason
        head.is_told.failure = None
        head.is_told.holds.pop("Generate").set()
        await wait_ready(coordinator)
        assert (await ask(coordinator, HI))[1].finish_reason == "stop"


async def test_a_ring_that_cannot_be_connected_says_why(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=2) as coordinator:
        head, _ = fleet.devices
        head.is_told.failure, head.is_told.errors["Generate"] = SILENT, Unavailable("nobody listens at 10.0.0.2:7411")
        with pytest.raises(Unavailable, match="dev-2 is silent"):
            await ask(coordinator, HI)
        await wait_until(lambda: "nobody listens" in coordinator.deployments()[0].detail)
        with pytest.raises(Unavailable, match="nobody listens"):
            await ask(coordinator, HI)
        head.is_told.failure = None
        del head.is_told.errors["Generate"]
        await wait_ready(coordinator)


async def test_a_request_that_is_answered_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """It was asked when the ring had broken, and tokens come: the ring stands."""
    async with fake_fleet(tmp_path, 1) as fleet, fleet.deployed() as coordinator:
        [head] = fleet.devices
        head.is_told.token_ids, head.is_told.tokens_wait = range(70, 90), asyncio.Event()
        parts = coordinator.generate(HI)
        first = asyncio.create_task(anext(parts))
        await wait_until(lambda: len(head.submitted) == 1)
        head.is_told.failure = SILENT
        head.is_told.token_ids, waits, head.is_told.tokens_wait = (), head.is_told.tokens_wait, None
        with pytest.raises(Unavailable, match="dev-2 is silent"):
            await ask(coordinator, HI)
        assert coordinator.deployments()[0].state == "degraded"
        head.is_told.failure = InvalidInput("no")  # said by the head alone
        with pytest.raises(InvalidInput):
            await ask(coordinator, HI)
        assert coordinator.deployments()[0].state == "degraded"
        head.is_told.failure = None
        waits.set()
        await first
        assert [part async for part in parts][-1].finish_reason == "stop"
        assert coordinator.deployments()[0].state == "ready"
        assert head.calls.count("Generate") == 1
