"""What a client that leaves at a bad moment, a device that hangs, or a defect must not break."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from fleet.answering.views import GenerateRequest
from fleet.planning.plan import PlanRequest
from fleet.service.coordinator import Coordinator
from protos.errors import Conflict, FleetError, Internal, NoSpace, Unavailable
from protos.v1 import device_pb2 as pb
from tests.support.fake_device import FakeDevice
from tests.support.fake_fleet import FakeFleet, ask, deploy, fake_fleet, wait_ready
from tests.support.waiting import wait_until

HI = GenerateRequest(prompt="hi")


async def deploy_on(coordinator: Coordinator, device: FakeDevice, name: str) -> None:
    async for _ in coordinator.deploy(PlanRequest("tiny", stages=1, devices=(device.name,)), name):
        pass


async def replicas(coordinator: Coordinator, count: int) -> None:
    async for _ in coordinator.deploy(PlanRequest("tiny", stages=1), None, count):
        pass


async def leave(task: asyncio.Task[Any]) -> None:
    """As Ctrl-C does."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, FleetError):
        await task


async def hold_a_stale_stage(coordinator: Coordinator, of: FakeDevice, on: FakeDevice) -> None:
    """`on` says that it holds a stage of an earlier generation of what `of` holds."""
    stale = pb.LoadStageRequest()
    stale.CopyFrom(next(iter(of.stages.values())))
    stale.generation.number, stale.pipeline_id = 0, f"{stale.generation.deployment}-0"
    on.stages[stale.pipeline_id] = stale
    await coordinator._registry.refresh([on.device])


@pytest.mark.parametrize("fault", ["LoadStage", "Generate"])
async def test_leaving_while_a_failed_replacement_is_rolled_back(tmp_path: Path, fault: str) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=1) as coordinator:
        head, tail = fleet.devices
        faulty = tail if fault == "LoadStage" else head
        faulty.is_told.errors[fault] = NoSpace("too small")
        tail.is_told.holds["UnloadStage"] = slow = asyncio.Event()
        running = asyncio.create_task(deploy(coordinator, stages=2))
        await wait_until(lambda: "UnloadStage" in tail.calls)  # the roll-back has begun
        running.cancel()
        await asyncio.sleep(0.1)
        slow.set()
        faulty.is_told.errors.clear()
        await leave(running)
        await wait_ready(coordinator)
        assert [view.generation for view in coordinator.deployments()] == [3]


async def test_leaving_while_the_new_generation_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.coordinating() as coordinator:
        store, loop, began = coordinator._deployments._store, asyncio.get_running_loop(), asyncio.Event()
        put = store.put_deployment

        def slow(name: str, generation: int, desired: str) -> None:
            loop.call_soon_threadsafe(began.set)
            time.sleep(0.2)
            put(name, generation, desired)

        monkeypatch.setattr(store, "put_deployment", slow)
        running = asyncio.create_task(deploy(coordinator))
        await began.wait()
        await leave(running)
        assert (coordinator.deployments(), store.deployments()) == ([], [])
        monkeypatch.undo()
        await deploy(coordinator)


async def test_a_store_that_refuses_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=1) as coordinator:

        def full(*_: object) -> None:
            raise NoSpace("the disk is full")

        monkeypatch.setattr(coordinator._deployments._store, "put_deployment", full)
        with pytest.raises(NoSpace):
            await deploy(coordinator, stages=2)
        [view] = coordinator.deployments()
        assert (view.state, view.generation) == ("ready", 1)
        assert "UnloadStage" not in fleet.devices[0].calls


async def test_a_deploy_cancelled_twice_does_not_block_its_name(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.coordinating() as coordinator:
        [device] = fleet.devices
        device.is_told.holds["LoadStage"] = device.is_told.holds["UnloadStage"] = held = asyncio.Event()
        running = asyncio.create_task(deploy(coordinator))
        await wait_until(lambda: "LoadStage" in device.calls)
        running.cancel()
        await asyncio.sleep(0.1)
        await leave(running)
        held.set()
        await wait_until(lambda: not coordinator.deployments())
        await deploy(coordinator)


async def test_no_stream_outlives_its_deployment(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.coordinating() as coordinator:
        await replicas(coordinator, 2)
        first = fleet.devices[0]
        first.is_told.holds["LoadStage"] = held = asyncio.Event()
        loads = first.calls.count("LoadStage")
        await first.restart()
        await wait_until(lambda: first.calls.count("LoadStage") > loads)  # it is being repaired
        running = asyncio.create_task(replicas(coordinator, 2))
        await wait_until(lambda: "tiny" not in coordinator._deployments._in_force)  # the old one is being retired
        running.cancel()
        held.set()
        await leave(running)
        await wait_ready(coordinator)
        streams = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("stream of")]
        assert len(streams) == 2


@pytest.mark.parametrize("where", ["_manifest", "load"])
async def test_a_defect_in_a_repair_does_not_end_repairing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        deployments = coordinator._deployments
        owner = deployments._keeper if where == "_manifest" else deployments._deployer
        right, raised = getattr(owner, where), asyncio.Event()

        def once(*arguments: Any) -> Any:
            if not raised.is_set():
                raised.set()
                raise PermissionError("manifest.json")
            return right(*arguments)

        monkeypatch.setattr(owner, where, once)
        await fleet.devices[0].restart()
        await wait_until(raised.is_set)
        await wait_ready(coordinator)


async def test_a_device_that_hangs_holds_up_no_other_deployment(tmp_path: Path) -> None:
    """Its unload waits, as behind a long load."""
    async with fake_fleet(tmp_path, 3) as fleet, fleet.coordinating() as coordinator:
        first, second, busy = fleet.devices
        await deploy_on(coordinator, first, "a")
        await deploy_on(coordinator, second, "b")
        busy.is_told.holds["UnloadStage"] = asyncio.Event()
        await hold_a_stale_stage(coordinator, first, busy)
        await wait_until(lambda: "UnloadStage" in busy.calls)
        await second.restart()
        await wait_until(lambda: bool(second.stages) and all(view.state == "ready" for view in coordinator.deployments()))


async def test_a_stale_stage_elsewhere_is_no_reason_to_leave_a_pipeline_lying(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=1) as coordinator:
        used, other = fleet.devices
        other.is_told.errors["UnloadStage"] = Internal("it cannot unload")
        await hold_a_stale_stage(coordinator, used, other)
        await used.restart()
        await wait_until(lambda: bool(used.stages))
        await wait_ready(coordinator)


async def test_blobs_that_came_since_they_were_asked_for(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.coordinating() as coordinator:
        second = coordinator.deploy(PlanRequest("tiny"), "b")
        assert (await anext(second)).kind == "plan"
        async for _ in coordinator.deploy(PlanRequest("tiny"), "a"):
            pass
        assert [event.kind async for event in second][-1] == "ready"


async def test_all_pipelines_are_sent_to_at_once(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.coordinating() as coordinator:
        held = asyncio.Event()
        for device in fleet.devices:
            device.is_told.holds["PutBlob"] = held
        running = asyncio.create_task(replicas(coordinator, 2))
        await wait_until(lambda: all("PutBlob" in device.calls for device in fleet.devices))
        held.set()
        await running


async def test_a_name_that_is_being_undeployed_is_not_free(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        fleet.devices[0].is_told.holds["UnloadStage"] = held = asyncio.Event()
        ending = asyncio.create_task(coordinator.undeploy("tiny"))
        await wait_until(lambda: "UnloadStage" in fleet.devices[0].calls)
        with pytest.raises(Conflict, match="being undeployed"):
            await deploy(coordinator)
        held.set()
        await ending
        await deploy(coordinator)


async def failing(fleet: FakeFleet, coordinator: Coordinator) -> None:
    fleet.devices[0].is_told.failure = Unavailable("stage 1: nobody answers")
    with contextlib.suppress(FleetError):
        await ask(coordinator, GenerateRequest(prompt="hi", max_tokens=1))
    fleet.devices[0].is_told.failure = None


async def test_one_request_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    """A new coordinator has told no neighbour an address, so that it tells them again; nothing was loaded, and nothing is lost."""
    async with fake_fleet(tmp_path) as fleet:
        async with fleet.deployed():
            pass
        async with fleet.coordinating() as coordinator:
            await wait_ready(coordinator)
            [device] = fleet.devices
            device.is_told.token_ids, device.is_told.tokens_wait = (72,) * 1000, asyncio.Event()
            long = asyncio.create_task(ask(coordinator, GenerateRequest(prompt="hi", max_tokens=100)))
            await wait_until(lambda: device.submitted)
            loads, waits = device.calls.count("LoadStage"), device.is_told.tokens_wait
            device.is_told.token_ids, device.is_told.tokens_wait = (), None
            await failing(fleet, coordinator)
            await wait_until(lambda: device.calls.count("LoadStage") > loads)
            waits.set()
            _, result = await long
            assert result.completion_tokens == 100


async def test_a_device_that_does_not_answer_is_asked_once_at_a_time(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=2) as coordinator:
        tail = fleet.devices[1]
        asked = tail.calls.count("Describe")
        tail.is_told.holds["Describe"] = held = asyncio.Event()
        for _ in range(5):
            await failing(fleet, coordinator)
            await asyncio.sleep(0.1)
        assert tail.calls.count("Describe") - asked <= 1
        held.set()
