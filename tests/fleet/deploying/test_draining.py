"""A device that is to be switched off is left: by a standby, by a spare that is made ready first, or by another plan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.deploying import phase
from fleet.deploying.desired import Policy
from fleet.devices.views import DeviceView
from fleet.planning.plan import PlanRequest
from fleet.service.coordinator import Coordinator
from protos.errors import NoSpace, NotFound, Unavailable
from tests.support.fake_fleet import FakeFleet, ask, deploy, fake_fleet, wait_ready
from tests.support.waiting import wait_until

HI = GenerateRequest(prompt="hi")
IDS = tuple(range(65, 95))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase, "REPLAN_WAIT_SECONDS", 0.3)


@asynccontextmanager
async def deployed(
    folder: Path, devices: int, stages: int = 2, standby: int = 0, replicas: int = 1
) -> AsyncIterator[tuple[FakeFleet, Coordinator]]:
    """With requests that go on when their ring breaks."""
    async with fake_fleet(folder, devices) as fleet, fleet.coordinator(recovery_seconds=20.0) as coordinator:
        await wait_until(lambda: [view.state for view in coordinator.devices()] == ["online"] * devices)
        async for _ in coordinator.deploy(PlanRequest("tiny", stages=stages), None, replicas, Policy(standby=standby)):
            pass
        yield fleet, coordinator


def view_of(coordinator: Coordinator, name: str) -> DeviceView:
    return next(view for view in coordinator.devices() if view.name == name)


def places(coordinator: Coordinator) -> list[str]:
    [view] = coordinator.deployments()
    return [stage.device_name for pipeline in view.pipelines for stage in pipeline.stages]


async def drained(coordinator: Coordinator, name: str) -> None:
    await wait_until(lambda: view_of(coordinator, name).drain == "drained")


@pytest.mark.parametrize("standby", [0, 1])
async def test_a_spare_has_its_stage_before_it_is_left(tmp_path: Path, standby: int) -> None:
    async with deployed(tmp_path, 3, standby=standby) as (fleet, coordinator):
        first, second, spare = fleet.devices
        packed = list(first.packed)
        await coordinator.drain(second.name)
        await drained(coordinator, second.name)
        assert places(coordinator) == [first.name, spare.name]
        assert (first.packed, second.stages) == (packed, {})  # the stage that stays was not loaded again
        await wait_ready(coordinator)
        assert (await ask(coordinator, HI))[1].finish_reason == "stop"
        # Nothing new goes there.
        with pytest.raises(Unavailable, match="is to be switched off") as refused:
            await coordinator.plan(PlanRequest("tiny", devices=(second.name,)))
        assert refused.value.advice == f"keep it: glmfleet devices undrain {second.name}"
        await coordinator.undrain(second.name)
        assert view_of(coordinator, second.name).drain == ""
        await coordinator.plan(PlanRequest("tiny", devices=(second.name,)))


async def test_what_runs_and_what_comes_meanwhile_is_answered(tmp_path: Path) -> None:
    """The answers are whole, and nobody is told of an error."""
    async with deployed(tmp_path, 2, stages=1) as (fleet, coordinator):
        left, spare = fleet.devices
        for device in fleet.devices:
            device.is_told.token_ids, device.is_told.token_seconds = IDS, 0.02
        asking = [asyncio.create_task(ask(coordinator, HI)) for _ in range(3)]
        await wait_until(lambda: len(left.submitted) == 3)
        spare.is_told.holds["LoadStage"] = asyncio.Event()
        await coordinator.drain(left.name)
        await wait_until(lambda: spare.calls.count("LoadStage") > 0)
        spare.is_told.holds["LoadStage"].set()
        while view_of(coordinator, left.name).drain != "drained":
            asking.append(asyncio.create_task(ask(coordinator, HI)))
            await asyncio.sleep(0.02)
        results: list[GenerateResult] = [result for _, result in await asyncio.gather(*asking)]
        assert {result.finish_reason for result in results} == {"stop"}
        # A fake gives all of its tokens after those that it is told were given before.
        given = [result.token_ids[: -len(IDS)] for result in results]
        assert [result.token_ids for result in results] == [(*before, *IDS) for before in given]
        assert all(before == IDS[: len(before)] for before in given)
        assert {tuple(one.forced_ids) for one in spare.submitted} == set(given)
        assert max(map(len, given)) > 0


async def test_without_a_spare_it_is_planned_anew(tmp_path: Path) -> None:
    async with deployed(tmp_path, 2) as (fleet, coordinator):
        first, second = fleet.devices
        await coordinator.drain(first.name)
        await drained(coordinator, first.name)
        assert places(coordinator) == [second.name]
        await wait_ready(coordinator)


@pytest.mark.long
async def test_where_there_is_no_room_it_says_so_and_goes_on(tmp_path: Path) -> None:
    async with deployed(tmp_path, 1, stages=1) as (fleet, coordinator):
        [only] = fleet.devices
        await coordinator.drain(only.name)
        await wait_until(lambda: "cannot be moved" in view_of(coordinator, only.name).drain_detail)
        assert view_of(coordinator, only.name).drain == "draining"
        assert view_of(coordinator, only.name).drain_detail.startswith("stage 0 of tiny-1 cannot be moved: no")
        assert (await ask(coordinator, HI))[1].finish_reason == "stop"
        await coordinator.undrain(only.name)
        await wait_ready(coordinator)
        assert places(coordinator) == [only.name]


@pytest.mark.long
async def test_a_spare_that_cannot_take_it_does_not_hold_it_up(tmp_path: Path) -> None:
    async with deployed(tmp_path, 3) as (fleet, coordinator):
        first, second, spare = fleet.devices
        spare.is_told.errors = {"LoadStage": NoSpace("no memory is left")}
        await coordinator.drain(second.name)
        await wait_until(lambda: view_of(coordinator, second.name).drain == "drained" or "no memory" in str(coordinator.devices()))
        spare.is_told.errors = {}
        await drained(coordinator, second.name)
        assert second.name not in places(coordinator)
        assert first.name in places(coordinator)


@pytest.mark.long
async def test_the_other_pipeline_is_asked_meanwhile(tmp_path: Path) -> None:
    async with deployed(tmp_path, 2, stages=1, replicas=2) as (fleet, coordinator):
        left, other = fleet.devices
        await coordinator.drain(left.name)  # there is nowhere to go
        for _ in range(3):
            await ask(coordinator, HI)
        assert (len(left.submitted), len(other.submitted)) == (0, 3)


async def test_a_standby_that_is_drained_is_replaced(tmp_path: Path) -> None:
    async with deployed(tmp_path, 3, stages=1, standby=1) as (fleet, coordinator):
        _, first, second = fleet.devices
        await wait_until(lambda: bool(first.standbys))
        await coordinator.drain(first.name)
        await drained(coordinator, first.name)
        await wait_until(lambda: bool(second.standbys))
        assert first.standbys == {}


async def test_it_stays_drained_over_a_restart(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        first, second = fleet.devices
        async with fleet.coordinating() as coordinator:
            assert await coordinator.drain(first.name) == first.device
            assert view_of(coordinator, first.name).drain == "drained"  # nothing was there
            await coordinator.drain(first.name)
            with pytest.raises(NotFound):
                await coordinator.drain("dev-9")
        async with fleet.coordinating() as coordinator:
            assert view_of(coordinator, first.name).drain == "drained"
            await deploy(coordinator)
            assert places(coordinator) == [second.name]


async def test_a_file_that_cannot_be_read_drains_nobody(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet:
        (fleet.home.coordinator / "draining.json").parent.mkdir(parents=True, exist_ok=True)
        (fleet.home.coordinator / "draining.json").write_text("[7")
        async with fleet.coordinating() as coordinator:
            assert [replace(view).drain for view in coordinator.devices()] == [""]
