"""Requests that are cancelled, or past their deadline, wherever they are then."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from fleet.answering import prompts
from fleet.answering.views import GenerateRequest
from fleet.deploying import stream
from fleet.planning.plan import PlanRequest
from fleet.service.coordinator import Coordinator
from protos.errors import FleetError, TimedOut
from tests.support import fake_device
from tests.support.fake_fleet import ask, fake_fleet
from tests.support.waiting import wait_until

HI = GenerateRequest(prompt="hi")


async def replicas(coordinator: Coordinator, count: int) -> None:
    async for _ in coordinator.deploy(PlanRequest("tiny", stages=1), None, count):
        pass


@pytest.fixture
def _deaf_to_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads take a cancel, and go on."""
    monkeypatch.setattr(fake_device._Sequence, "cancel", lambda self: None)


async def test_past_its_deadline_it_is_sent_nowhere_else(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 3) as fleet, fleet.coordinating() as coordinator:
        await replicas(coordinator, 3)
        await ask(coordinator, HI)  # its tokenizer is loaded
        for device in fleet.devices:
            device.is_told.tokens_wait = asyncio.Event()
        with pytest.raises(TimedOut, match="deadline"):
            await ask(coordinator, GenerateRequest(prompt="hi", timeout_seconds=0.3))
        view, _ = coordinator.requests()
        assert (view.attempts, sum(len(device.submitted) for device in fleet.devices)) == (1, 2)


async def test_before_a_pipeline_has_it(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        fleet.devices[0].is_told.tokens_wait = asyncio.Event()
        digest = fleet.manifest.digest
        async with coordinator._generation._loading.setdefault(digest, asyncio.Lock()):  # as while a tokenizer is loaded
            asking = asyncio.create_task(ask(coordinator, HI))
            await wait_until(coordinator.requests)
            [view] = coordinator.requests()
            assert view.state == "accepted"
            await coordinator.cancel(view.request_id)
        _, result = await asking
        assert result.finish_reason == "cancelled"


@pytest.mark.usefixtures("_deaf_to_cancels")
async def test_one_that_was_cancelled_does_not_begin_anew_elsewhere(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.coordinating() as coordinator:
        await replicas(coordinator, 2)
        for device in fleet.devices:
            device.is_told.tokens_wait = asyncio.Event()
        asking = asyncio.create_task(ask(coordinator, HI))
        await wait_until(lambda: any(device.submitted for device in fleet.devices))
        [view] = coordinator.requests()
        await coordinator.cancel(view.request_id)
        dying = next(device for device in fleet.devices if device.submitted)
        other = next(device for device in fleet.devices if device is not dying)
        await wait_until(lambda: dying.cancelled)
        await dying.stop()
        with pytest.raises(FleetError):
            await asking
        assert other.submitted == []


@pytest.mark.usefixtures("_deaf_to_cancels")
async def test_a_head_that_hangs_does_not_hold_its_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "END_SECONDS", 0.2)
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        fleet.devices[0].is_told.tokens_wait = asyncio.Event()
        with pytest.raises(TimedOut):
            await asyncio.wait_for(ask(coordinator, GenerateRequest(prompt="hi", timeout_seconds=0.1)), 5)


async def test_a_defect_is_listed_as_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:

        def defective(*_: object) -> list[int]:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(prompts, "prompt_ids", defective)
        with contextlib.suppress(ZeroDivisionError):
            await ask(coordinator, HI)
        [view] = coordinator.requests()
        assert (view.finish_reason, view.detail) == ("error", "ZeroDivisionError: a defect")


async def test_a_link_of_the_coordinators_own_is_no_reason_to_refuse(tmp_path: Path) -> None:
    """The ring stands; only the coordinator cannot ask the device behind the head."""
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=2) as coordinator:
        await fleet.devices[1].stop()
        await wait_until(lambda: coordinator.deployments()[0].state == "degraded")
        _, result = await ask(coordinator, HI)
        assert result.finish_reason == "stop"
