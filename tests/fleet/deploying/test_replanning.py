"""A pipeline whose device stays away is planned anew over the devices there are; nothing else is disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.answering.views import GenerateRequest
from fleet.deploying import phase
from fleet.deploying.desired import Desired, PipelineSpec, Policy
from fleet.deploying.placement import Placed, Placement
from fleet.planning.plan import PlanRequest
from fleet.service.coordinator import Coordinator
from protos.errors import InvalidInput
from tests.support.fake_fleet import FakeFleet, ask, fake_fleet, wait_ready
from tests.support.waiting import wait_online, wait_until

SOON = Policy(replan_after_seconds=0.3)
HI = GenerateRequest(prompt="hi")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase, "REPLAN_WAIT_SECONDS", 0.3)


@asynccontextmanager
async def deployed(
    folder: Path, devices: int, request: PlanRequest, replicas: int = 1, policy: Policy = SOON
) -> AsyncIterator[tuple[FakeFleet, Coordinator]]:
    async with fake_fleet(folder, devices) as fleet, fleet.coordinating() as coordinator:
        async for _ in coordinator.deploy(request, None, replicas, policy):
            pass
        yield fleet, coordinator


def pipelines(coordinator: Coordinator) -> dict[str, list[str]]:
    """Names of devices, by pipeline."""
    [view] = coordinator.deployments()
    return {pipeline.pipeline_id: [stage.device_name for stage in pipeline.stages] for pipeline in view.pipelines}


def held(fleet: FakeFleet) -> dict[str, list[str]]:
    return {device.name: sorted(device.stages) for device in fleet.devices if device.stages}


async def test_it_moves_to_a_device_that_was_spare(tmp_path: Path) -> None:
    async with deployed(tmp_path, 3, PlanRequest("tiny", stages=2)) as (fleet, coordinator):
        first, second, spare = fleet.devices
        await second.stop()
        await wait_until(lambda: pipelines(coordinator) == {"tiny-2": [first.name, spare.name]})
        await wait_ready(coordinator)
        assert (await ask(coordinator, HI))[1].finish_reason == "stop"
        assert held(fleet)[first.name] == ["tiny-2"]
        assert held(fleet)[spare.name] == ["tiny-2"]
        # The one that comes back is cleared, and is not waited for.
        await second.start()
        await wait_until(lambda: second.name not in held(fleet))
        assert pipelines(coordinator) == {"tiny-2": [first.name, spare.name]}


async def test_fewer_stages_than_were_asked_for_are_better_than_none(tmp_path: Path) -> None:
    async with deployed(tmp_path, 2, PlanRequest("tiny", stages=2)) as (fleet, coordinator):
        first, second = fleet.devices
        await first.stop()
        await wait_until(lambda: pipelines(coordinator) == {"tiny-2": [second.name]})
        await wait_ready(coordinator)


async def test_other_pipelines_go_on(tmp_path: Path) -> None:
    async with deployed(tmp_path, 3, PlanRequest("tiny", stages=1), replicas=2) as (fleet, coordinator):
        lost, other, spare = fleet.devices
        lost.is_told.tokens_wait = other.is_told.tokens_wait = gate = asyncio.Event()
        asking = [asyncio.create_task(ask(coordinator, HI)) for _ in range(2)]
        await wait_until(lambda: lost.submitted and other.submitted)
        calls = other.calls.copy()
        await lost.stop()
        await wait_until(lambda: pipelines(coordinator) == {"tiny-2": [spare.name], "tiny-1.1": [other.name]})
        await wait_until(lambda: coordinator.deployments()[0].state == "ready")
        gate.set()
        assert {result.finish_reason for _, result in await asyncio.gather(*asking)} == {"stop"}
        # Its stream, its stage and its blobs were left alone.
        for call in ("Generate", "LoadStage", "UnloadStage", "PutBlob"):
            assert other.calls.count(call) == calls.count(call)


async def test_never_means_never(tmp_path: Path) -> None:
    async with deployed(tmp_path, 3, PlanRequest("tiny", stages=1), policy=Policy(None)) as (fleet, coordinator):
        await fleet.devices[0].stop()
        await asyncio.sleep(0.8)
        assert pipelines(coordinator) == {"tiny-1": [fleet.devices[0].name]}
        assert coordinator.deployments()[0].pipelines[0].state == "waiting"


@pytest.mark.parametrize("asked", [PlanRequest("tiny", stages=1), PlanRequest("tiny", devices=("dev-1",))])
async def test_where_there_is_no_room_it_waits_and_says_why(tmp_path: Path, asked: PlanRequest) -> None:
    """Only the devices that were asked for may be used, however many others there are."""
    async with deployed(tmp_path, 2 if asked.devices else 1, asked) as (fleet, coordinator):
        device = next(device for device in fleet.devices if device.stages)
        await device.stop()
        await wait_until(lambda: "could not be moved to other devices" in coordinator.deployments()[0].detail)
        assert device.name in coordinator.deployments()[0].detail
        await device.start()
        await wait_ready(coordinator)
        assert pipelines(coordinator) == {"tiny-1": [device.name]}


async def test_a_move_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plan is the one before, the other pipeline goes on, and the state says why; then the device is back."""
    monkeypatch.setattr(phase, "REPLAN_WAIT_SECONDS", 60.0)
    async with deployed(tmp_path, 3, PlanRequest("tiny", stages=1), replicas=2) as (fleet, coordinator):
        lost, other, spare = fleet.devices
        spare.is_told.errors = {"LoadStage": InvalidInput("no such operator")}
        await lost.stop()
        await wait_until(lambda: "could not be moved to other devices" in coordinator.deployments()[0].detail)
        assert "no such operator" in coordinator.deployments()[0].detail
        assert spare.calls.count("LoadStage") == 1
        assert list(pipelines(coordinator).values()) == [[lost.name], [other.name]]
        assert (await ask(coordinator, HI))[1].finish_reason == "stop"
        await lost.start()
        await wait_ready(coordinator)
        assert sorted(held(fleet)) == sorted([lost.name, other.name])


async def test_two_that_lose_their_devices_at_once_are_both_moved(tmp_path: Path) -> None:
    async with deployed(tmp_path, 4, PlanRequest("tiny", stages=1), replicas=2) as (fleet, coordinator):
        first, second, *spare = fleet.devices
        await asyncio.gather(first.stop(), second.stop())
        wanted = sorted([device.name] for device in spare)
        await wait_until(lambda: sorted(pipelines(coordinator).values()) == wanted)
        await wait_ready(coordinator)


async def test_a_place_that_another_has_taken_meanwhile_is_not_taken_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are planned before either moves, and the second hears of its plan when the first has moved."""
    find, both, late = Placement.move, asyncio.Event(), list[str]()

    async def slow(self: Placement, desired: Desired, lost: PipelineSpec) -> Placed:
        placed = await find(self, desired, lost)
        if not both.is_set():
            late.append(lost.pipeline_id)
            if len(late) == 1:
                await both.wait()
                await wait_until(lambda: moved() != before and coordinator.deployments()[0].state == "degraded")
            both.set()
        return placed

    async with deployed(tmp_path, 4, PlanRequest("tiny", stages=1), replicas=2) as (fleet, coordinator):
        moved = lambda: sorted(pipelines(coordinator).values())  # noqa: E731
        before = moved()
        monkeypatch.setattr(Placement, "move", slow)
        first, second, *spare = fleet.devices
        await asyncio.gather(first.stop(), second.stop())
        await wait_until(lambda: moved() == sorted([device.name] for device in spare))
        await wait_ready(coordinator)
        assert len(late) == 2


async def test_a_move_makes_way_for_the_operator(tmp_path: Path) -> None:
    async with deployed(tmp_path, 2, PlanRequest("tiny", stages=1)) as (fleet, coordinator):
        lost, spare = fleet.devices
        spare.is_told.holds["LoadStage"] = asyncio.Event()
        await lost.stop()
        await wait_until(lambda: spare.calls.count("LoadStage") > 0)
        await coordinator.undeploy("tiny")
        assert coordinator.deployments() == []
        spare.is_told.holds["LoadStage"].set()
        await wait_until(lambda: held(fleet).get(spare.name) is None)


async def test_what_is_not_moved_is_repaired_meanwhile(tmp_path: Path) -> None:
    async with deployed(tmp_path, 3, PlanRequest("tiny", stages=1), replicas=2) as (fleet, coordinator):
        lost, other, spare = fleet.devices
        spare.is_told.holds["LoadStage"] = gate = asyncio.Event()
        await lost.stop()
        await wait_until(lambda: spare.calls.count("LoadStage") > 0)
        loads = other.calls.count("LoadStage")
        await other.restart()  # its stage is gone
        await wait_until(lambda: other.calls.count("LoadStage") > loads)
        gate.set()
        await wait_ready(coordinator)


async def test_a_new_version_does_not_come_in_by_the_back_door(tmp_path: Path) -> None:
    async with deployed(tmp_path, 2, PlanRequest("tiny", stages=1)) as (fleet, coordinator):
        other = replace(fleet.manifest, provenance=replace(fleet.manifest.provenance, source="elsewhere"))
        fleet.artifacts.save("tiny", other)
        await fleet.devices[0].stop()
        await wait_until(lambda: "is another version here now" in coordinator.deployments()[0].detail)


async def test_it_outlives_the_coordinator(tmp_path: Path) -> None:
    """What was asked for and the policy are stored; a plan made anew is."""
    async with fake_fleet(tmp_path, 2) as fleet:
        async with fleet.coordinating() as coordinator:
            async for _ in coordinator.deploy(PlanRequest("tiny", stages=1), None, 1, SOON):
                pass
        await fleet.devices[0].stop()
        async with fleet.coordinator() as coordinator:
            await wait_online(coordinator.devices, 1, 10)
            await wait_until(lambda: pipelines(coordinator) == {"tiny-2": [fleet.devices[1].name]})
            await wait_ready(coordinator)
        async with fleet.coordinator() as coordinator:
            assert pipelines(coordinator) == {"tiny-2": [fleet.devices[1].name]}
            await wait_ready(coordinator)
