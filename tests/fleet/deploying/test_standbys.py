"""Spare devices keep stages loaded, and take over from a device that is lost; the other stages stay as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fleet.answering.views import GenerateRequest
from fleet.deploying import phase, standbys
from fleet.deploying.desired import Policy
from fleet.deploying.views import StandbyView
from fleet.planning.plan import PlanRequest
from fleet.service.coordinator import Coordinator
from protos.errors import NoSpace
from tests.support.fake_device import FakeDevice
from tests.support.fake_fleet import FakeFleet, ask, fake_fleet, wait_ready
from tests.support.waiting import wait_online, wait_until

HI = GenerateRequest(prompt="hi")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake ring does not break by itself when a device of it is lost."""
    monkeypatch.setattr(phase, "UNBROKEN_SECONDS", 0.3)


@asynccontextmanager
async def deployed(
    folder: Path, devices: int, stages: int = 2, standby: int = 1, replicas: int = 1, ready: bool = True
) -> AsyncIterator[tuple[FakeFleet, Coordinator]]:
    async with fake_fleet(folder, devices) as fleet, fleet.coordinating() as coordinator:
        async for _ in coordinator.deploy(PlanRequest("tiny", stages=stages), None, replicas, Policy(standby=standby)):
            pass
        if ready:
            await wait_until(lambda: ready_standbys(coordinator) == standby)
        yield fleet, coordinator


def standbys_of(coordinator: Coordinator) -> list[StandbyView]:
    [view] = coordinator.deployments()
    return [standby for pipeline in view.pipelines for standby in pipeline.standbys]


def ready_standbys(coordinator: Coordinator) -> int:
    """Those that have all they are to have."""
    views = standbys_of(coordinator)
    waiting = {standby.device_id for standby in views if standby.state != "ready"}
    return len({standby.device_id for standby in views} - waiting)


def places(coordinator: Coordinator) -> list[str]:
    [view] = coordinator.deployments()
    return [stage.device_name for pipeline in view.pipelines for stage in pipeline.stages]


def calls(device: FakeDevice) -> dict[str, int]:
    return {call: device.calls.count(call) for call in ("PutBlob", "UnloadStage", "RetainBlobs")}


@pytest.mark.parametrize("lost", [0, 1])
async def test_a_standby_takes_over_and_nobody_else_moves(tmp_path: Path, lost: int) -> None:
    async with deployed(tmp_path, 3) as (fleet, coordinator):
        *ring, spare = fleet.devices
        assert spare.packed == [0, 1]
        assert places(coordinator) == [device.name for device in ring]
        stays = ring[1 - lost]
        before, packed = {device.name: calls(device) for device in (stays, spare)}, list(stays.packed)
        await ring[lost].stop()
        await wait_until(lambda: spare.name in places(coordinator))
        await wait_ready(coordinator)
        assert places(coordinator)[1 - lost] == stays.name
        assert (stays.packed, spare.packed) == (packed, [0, 1])  # no weights were read again
        assert {device.name: calls(device) for device in (stays, spare)} == before  # nor sent, nor dropped
        [stage] = spare.stages.values()
        assert (stage.stage, stage.standby, spare.standbys) == (lost, False, {})
        assert stage.epoch == stays.stages[stage.pipeline_id].epoch > 1
        assert (await ask(coordinator, HI))[1].finish_reason == "stop"
        # Who was lost comes back as the standby; nothing moves to it by itself.
        await ring[lost].start()
        await wait_until(lambda: ready_standbys(coordinator) == 1)
        assert [standby.device_name for standby in standbys_of(coordinator)] == [ring[lost].name]
        assert places(coordinator)[lost] == spare.name
        assert ring[lost].stages == {}


@pytest.mark.long
async def test_it_takes_over_again_and_again(tmp_path: Path) -> None:
    async with deployed(tmp_path, 3) as (fleet, coordinator):
        for _ in range(3):
            by_name = {device.name: device for device in fleet.devices}
            lost = by_name[places(coordinator)[1]]
            await lost.stop()
            await wait_until(lambda lost=lost: lost.name not in places(coordinator))  # type: ignore[misc]
            await wait_ready(coordinator)
            lost.stages.clear()
            await lost.start()
            await wait_until(lambda: ready_standbys(coordinator) == 1)


async def test_a_device_that_is_back_at_once_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase, "UNBROKEN_SECONDS", 5.0)
    async with deployed(tmp_path, 3) as (fleet, coordinator):
        before = places(coordinator)
        await fleet.devices[1].stop()
        await fleet.devices[1].start()
        await wait_online(coordinator.devices, 3, 10)
        await wait_ready(coordinator)
        assert places(coordinator) == before


@pytest.mark.long
async def test_two_standbys_for_two_that_are_lost_at_once(tmp_path: Path) -> None:
    async with deployed(tmp_path, 4, standby=2) as (fleet, coordinator):
        first, second, *spare = fleet.devices
        await first.stop()
        await second.stop()
        await wait_until(lambda: set(places(coordinator)) == {device.name for device in spare})
        await wait_ready(coordinator)
        assert all(device.packed == [0, 1] for device in spare)


@pytest.mark.long
async def test_a_standby_serves_several_pipelines_once(tmp_path: Path) -> None:
    async with deployed(tmp_path, 3, stages=1, replicas=2) as (fleet, coordinator):
        spare = fleet.devices[2]
        assert {standby.device_name for standby in standbys_of(coordinator)} == {spare.name}
        assert len(standbys_of(coordinator)) == len(spare.standbys) == 2
        await fleet.devices[0].stop()
        await wait_until(lambda: places(coordinator) == [spare.name, fleet.devices[1].name])
        await wait_until(lambda: coordinator.deployments()[0].state == "ready")
        # It is no spare any more, and keeps nothing for the other pipeline.
        await wait_until(lambda: not spare.standbys)
        assert standbys_of(coordinator) == []
        assert "0 of the 1 standbys" in coordinator.deployments()[0].standby_detail


async def test_without_a_spare_one_line_says_why(tmp_path: Path) -> None:
    async with deployed(tmp_path, 2, ready=False) as (fleet, coordinator):
        [view] = coordinator.deployments()
        assert view.standby_detail == "0 of the 1 standbys that were asked for: no device is left that may be used"
        plan = await coordinator.plan(PlanRequest("tiny", stages=2), 1)
        assert plan.why[-1] == view.standby_detail
        assert (plan.standbys, plan.pauses) == ((), ())
        assert len(fleet.devices) == 2


async def test_one_of_the_release_before_is_no_standby(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        for device in fleet.devices:
            device.is_told.keeps_standbys = False
        async with fleet.coordinating() as coordinator:
            async for _ in coordinator.deploy(PlanRequest("tiny", stages=1), None, 1, Policy(standby=1)):
                pass
            assert "its agent is older" in coordinator.deployments()[0].standby_detail
            assert fleet.devices[1].standbys == {}


async def test_one_that_cannot_load_says_why_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standbys, "FIRST_WAIT_SECONDS", 0.1)
    async with fake_fleet(tmp_path, 2) as fleet, fleet.coordinating() as coordinator:
        spare = fleet.devices[1]
        spare.is_told.errors = {"LoadStage": NoSpace("no memory is left")}
        async for _ in coordinator.deploy(PlanRequest("tiny", stages=1), None, 1, Policy(standby=1)):
            pass
        await wait_until(lambda: "no memory is left" in standbys_of(coordinator)[0].detail)
        assert (standbys_of(coordinator)[0].state, coordinator.deployments()[0].state) == ("preparing", "ready")
        spare.is_told.errors = {}
        await wait_until(lambda: ready_standbys(coordinator) == 1)


async def test_it_outlives_the_coordinator(tmp_path: Path) -> None:
    """What was taken over is stored before it is done; what stands by is found as it was."""
    async with deployed(tmp_path, 3) as (fleet, coordinator):
        pass
    packed = [list(device.packed) for device in fleet.devices]
    for device in fleet.devices:
        await device.start()
    try:
        async with fleet.coordinator() as coordinator:
            await wait_ready(coordinator)
            await wait_until(lambda: ready_standbys(coordinator) == 1)
            assert [device.packed for device in fleet.devices] == packed
            await fleet.devices[0].stop()
            await wait_until(lambda: fleet.devices[2].name in places(coordinator))
        async with fleet.coordinator() as coordinator:
            assert places(coordinator) == [fleet.devices[2].name, fleet.devices[1].name]
            await wait_ready(coordinator)
    finally:
        for device in fleet.devices:
            await device.stop()


async def test_undeploying_takes_the_standbys_too(tmp_path: Path) -> None:
    async with deployed(tmp_path, 3) as (fleet, coordinator):
        await coordinator.undeploy("tiny")
        await wait_until(lambda: not any(device.standbys or device.stages for device in fleet.devices))
