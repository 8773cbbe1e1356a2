from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from fleet.planning.plan import PlanRequest
from protos.errors import Conflict, Corrupt, InvalidInput, NoSpace, NotFound, Unavailable
from tests.support.fake_fleet import deploy, fake_fleet, wait_ready
from tests.support.waiting import wait_online, wait_until


async def test_deploy_pushes_loads_and_attaches(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.coordinating() as coordinator:
        events = await deploy(coordinator, stages=2)
        kinds = [event.kind for event in events]
        assert (kinds[0], kinds[-1]) == ("plan", "ready")
        assert kinds == sorted(kinds, key=["plan", "push", "load", "ready"].index)
        head, tail = fleet.devices
        for device in fleet.devices:
            pushed = [event for event in events if event.kind == "push" and event.device_name == device.name]
            assert pushed[-1].done_bytes == pushed[-1].total_bytes > 0
            done = [event.done_bytes for event in pushed]
            assert done == sorted(done)
        first, second = (device.stages["tiny-1"] for device in fleet.devices)
        assert (first.stage, second.stage, first.stages) == (0, 1, 2)
        assert (first.next.address, second.next.address) == (tail.address, head.address)
        assert (first.next.addresses, second.next.addresses) == ([tail.address], [head.address])
        assert first.head_graph
        assert not second.head_graph
        assert set(first.blobs) <= head.complete
        assert (first.shape.stop_layer, second.shape.stop_layer) == (second.shape.first_layer, fleet.manifest.config.layers)
        assert (first.generation.deployment, first.generation.number, first.epoch) == ("tiny", 1, 1)
        assert [attach.pipeline_id for attach in head.attached] == ["tiny-1"]
        [view] = coordinator.deployments()
        assert (view.state, view.detail, view.generation, view.model) == ("ready", "", 1, "tiny")
        assert [device.stages for device in coordinator.devices()] != [(), ()]


async def test_graphs_are_sent_without_a_next_hop_for_one_stage(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed():
        assert not fleet.devices[0].stages["tiny-1"].HasField("next")


async def test_what_is_present_is_not_sent_again(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        pushes = fleet.devices[0].calls.count("PutBlob")
        assert pushes > 0
        await coordinator.undeploy("tiny")
        events = await deploy(coordinator)
        assert fleet.devices[0].calls.count("PutBlob") == pushes
        assert not [event for event in events if event.kind == "push"]
        assert fleet.devices[0].stages.keys() == {"tiny-3"}  # undeploying took generation 2


async def test_failing_load_takes_back_what_was_loaded(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.coordinating() as coordinator:
        tail = fleet.devices[1]
        tail.is_told.errors["LoadStage"] = NoSpace("stage 1 needs 3 MiB, 1 MiB is free")
        with pytest.raises(NoSpace, match=f"{tail.name}: stage 1 needs"):
            await deploy(coordinator, stages=2)
        assert [device.stages for device in fleet.devices] == [{}, {}]
        assert coordinator.deployments() == []
        del tail.is_told.errors["LoadStage"]
        await deploy(coordinator, stages=2)
        assert coordinator.deployments()[0].state == "ready"


async def test_failing_push_names_the_device_and_changes_nothing(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=1) as coordinator:
        tail = fleet.devices[1]
        tail.is_told.errors["PutBlob"] = NoSpace("the disk is full")
        with pytest.raises(NoSpace, match=f"{tail.name}: the disk is full"):
            await deploy(coordinator, stages=2)
        [view] = coordinator.deployments()
        assert (view.state, view.generation) == ("ready", 1)
        assert "UnloadStage" not in fleet.devices[0].calls


async def test_failed_replacement_brings_the_old_plan_back(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=1) as coordinator:
        head, tail = fleet.devices
        tail.is_told.errors["LoadStage"] = NoSpace("too small")
        with pytest.raises(NoSpace):
            await deploy(coordinator, stages=2)
        await wait_ready(coordinator)
        [view] = coordinator.deployments()
        assert (view.generation, len(view.stages)) == (3, 1)
        assert list(head.stages) == ["tiny-3"]
        assert list(tail.stages) == []


async def test_replacement_unloads_the_old_generation(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=1) as coordinator:
        await deploy(coordinator, stages=2)
        assert [list(device.stages) for device in fleet.devices] == [["tiny-2"], ["tiny-2"]]
        calls = fleet.devices[0].calls
        assert calls.index("UnloadStage") < len(calls) - 1 - calls[::-1].index("LoadStage")  # room is made first
        [view] = coordinator.deployments()
        assert (view.state, view.generation) == ("ready", 2)


@pytest.mark.parametrize("at", ["PutBlob", "LoadStage", "Generate"])
async def test_leaving_a_deploy_takes_everything_back(tmp_path: Path, at: str) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.coordinating() as coordinator:
        held = asyncio.Event()
        for device in fleet.devices:
            device.is_told.holds[at] = held
        running = asyncio.create_task(deploy(coordinator, stages=2))
        await wait_until(lambda: any(at in device.calls for device in fleet.devices))
        assert [view.state for view in coordinator.deployments()] == ["deploying"]
        with pytest.raises(Conflict, match="being deployed"):
            await deploy(coordinator)
        with pytest.raises(Conflict, match="being deployed"):
            await coordinator.undeploy("tiny")
        asyncio.get_running_loop().call_soon(held.set)  # a load that has begun ends before its unload
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await wait_until(lambda: not coordinator.deployments())
        assert [device.stages for device in fleet.devices] == [{}, {}]


async def test_lack_of_disk_is_said_and_cached_blobs_make_room(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.coordinating() as coordinator:
        [device] = fleet.devices
        device.is_told.storage_free_bytes = 1000
        with pytest.raises(NoSpace, match=rf"{device.name}: .* 1000 B are free") as refused:
            await deploy(coordinator)
        assert refused.value.advice
        device.hold_blob(bytes(10_000_000))  # of a model of yesterday
        await deploy(coordinator)
        assert coordinator.deployments()[0].state == "ready"


async def test_a_device_that_cannot_keep_its_share_is_not_chosen(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.coordinating() as coordinator:
        first, other = fleet.devices  # the first by id: without a cause it is the one
        for device in fleet.devices:
            device.is_told.storage_droppable_bytes = 0
        first.is_told.storage_free_bytes, first.is_told.storage_problem = 0, "the file system is read-only"
        await deploy(coordinator)
        [view] = coordinator.deployments()
        assert [stage.device_name for stage in view.stages] == [other.name]
        made = await coordinator.plan(PlanRequest("tiny"))
        assert f"{first.name}: no room on its disk: the file system is read-only" in made.why
        await coordinator.undeploy("tiny")
        for blob in fleet.manifest.blobs().values():  # what it has already it can serve
            first.hold_blob(fleet.artifacts.blob_path(blob.digest).read_bytes())
        made = await coordinator.plan(PlanRequest("tiny"))
        assert [stage.device_name for stage in made.stages] == [first.name]


async def test_a_part_that_is_damaged_here_is_named(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.coordinating() as coordinator:
        [device] = fleet.devices
        part = fleet.manifest.parts[0]
        blob = fleet.artifacts.blob_path(part.variants[0].blobs[0].digest)
        blob.chmod(0o600)
        blob.write_bytes(bytes(blob.stat().st_size))
        device.is_told.errors["PutBlob"] = Corrupt("it arrived changed")
        with pytest.raises(Corrupt, match=f"model tiny: {part.name} is not what its digest says") as damaged:
            await deploy(coordinator)
        assert "import the model again" in damaged.value.advice
        assert (device.stages, coordinator.deployments()) == ({}, [])


@pytest.mark.parametrize("knows_fields", [True, False])
async def test_a_part_that_is_damaged_on_a_device_is_named(tmp_path: Path, knows_fields: bool) -> None:
    """A device of the release before sends no digest: then its own words are all there is."""
    async with fake_fleet(tmp_path) as fleet, fleet.coordinating() as coordinator:
        [device] = fleet.devices
        part = fleet.manifest.parts[0]
        digest = part.variants[0].blobs[0].digest
        words = f"blob {digest[:12]} changed; it was dropped"
        device.is_told.errors["LoadStage"] = Corrupt(words, advice="deploy again", digest=digest if knows_fields else None)
        with pytest.raises(Corrupt) as damaged:
            await deploy(coordinator)
        assert damaged.value.detail == f"{device.name}: {words}" + (f" ({part.name})" if knows_fields else "")
        assert damaged.value.advice == "deploy again"


async def test_refused_attach_is_the_deploys_error(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.coordinating() as coordinator:
        [device] = fleet.devices
        device.is_told.errors["Generate"] = Unavailable("stage 1: nobody listens")
        with pytest.raises(Unavailable, match=f"{device.name}: stage 1: nobody listens"):
            await deploy(coordinator)
        assert device.stages == {}
        assert coordinator.deployments() == []


async def test_users_mistakes(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.coordinating() as coordinator:
        with pytest.raises(NotFound, match="no model 'nope'") as unknown:
            await coordinator.plan(PlanRequest("nope"))
        assert "tiny" in unknown.value.advice
        with pytest.raises(NotFound, match="no device 'dev-9'"):
            await coordinator.plan(PlanRequest("tiny", devices=("dev-9",)))
        with pytest.raises(NotFound, match="no deployment"):
            await coordinator.undeploy("tiny")
        with pytest.raises(InvalidInput, match="not a deployment name"):
            await deploy(coordinator, name="Bad Name")
        await fleet.devices[0].stop()
        await wait_until(lambda: coordinator.devices()[0].state != "online")
        with pytest.raises(Unavailable, match="dev-1 is"):
            await coordinator.plan(PlanRequest("tiny", devices=("dev-1",)))
        with pytest.raises(NotFound, match="no device is online"):
            await coordinator.plan(PlanRequest("tiny"))


async def test_a_plan_waits_for_devices_that_are_being_found(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        tail = fleet.devices[1]
        await tail.stop()
        async with fleet.coordinator(discovery_seconds=60.0) as coordinator:
            planning = asyncio.create_task(coordinator.plan(PlanRequest("tiny", stages=2)))
            await wait_online(coordinator.devices, 1, 10)
            assert not planning.done()
            with pytest.raises(InvalidInput, match="at least one sequence"):  # no device could make this one right
                await coordinator.plan(PlanRequest("tiny", slots=0))
            await tail.start()
            assert len((await planning).stages) == 2


async def test_undeploy_unloads_and_forgets(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=2) as coordinator:
        await coordinator.undeploy("tiny")
        assert coordinator.deployments() == []
        assert [device.stages for device in fleet.devices] == [{}, {}]


async def test_device_that_was_away_during_undeploy_is_cleared_on_return(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=2) as coordinator:
        tail = fleet.devices[1]
        await tail.stop()
        await wait_until(lambda: any(device.state != "online" for device in coordinator.devices()))
        await coordinator.undeploy("tiny")
        assert list(tail.stages) == ["tiny-1"]
        await tail.start()
        await wait_until(lambda: not tail.stages)


async def test_coordinator_that_stops_takes_back_a_deploy_under_way(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        head, tail = fleet.devices
        async with fleet.coordinating() as coordinator:
            tail.is_told.holds["LoadStage"] = held = asyncio.Event()
            running = asyncio.create_task(deploy(coordinator, stages=2))
            await wait_until(lambda: head.stages and "LoadStage" in tail.calls)
            asyncio.get_running_loop().call_soon(held.set)
        with pytest.raises(Unavailable, match="stopping"):
            await running
        assert (head.stages, tail.stages) == ({}, {})
        async with fleet.coordinator() as again:
            await wait_online(again.devices, 2, 5)
            assert again.deployments() == []
