from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from device.agent.identity import insecure_identity
from fleet.answering.views import GenerateRequest
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from fleet.service.coordinator import Coordinator
from protos.errors import InvalidInput, NotFound
from protos.v1 import telemetry_pb2
from tests.support.fake_device import FakeDevice
from tests.support.fake_fleet import QUICK, ask, deploy, fake_fleet, wait_ready
from tests.support.members import TestFleet
from tests.support.waiting import wait_online, wait_until


async def test_views_of_an_empty_home(tmp_path: Path) -> None:
    async with Coordinator(Home.open(tmp_path), interfaces=()) as coordinator:
        assert (coordinator.devices(), coordinator.models(), coordinator.deployments()) == ([], [], [])
        assert coordinator.discovery().fleet_id == TestFleet.open(tmp_path).fleet_id
        assert await coordinator.telemetry(60, "device") == []
        with pytest.raises(NotFound, match="no model"):
            coordinator.model("tiny")
        with pytest.raises(InvalidInput, match="group by"):
            await coordinator.telemetry(60, "colour")
        with pytest.raises(InvalidInput, match="span"):
            await coordinator.telemetry(0, "device")
        assert (await coordinator.history(60)).series == ()
        with pytest.raises(InvalidInput, match="span"):
            await coordinator.history(0)
        with pytest.raises(NotFound, match="no device"):
            await coordinator.history(60, "dev-1")


async def test_insecure_has_no_identity(tmp_path: Path) -> None:
    async with Coordinator(Home.open(tmp_path), interfaces=(), insecure=True) as coordinator:
        assert coordinator.discovery().fleet_id == "insecure"
    assert not (tmp_path / "authority").exists()


async def test_models_are_shown_and_a_damaged_one_left_out(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.coordinator() as coordinator:
        [view] = coordinator.models()
        assert view == coordinator.model("tiny")
        config = fleet.manifest.config
        assert (view.digest, view.layers, view.context, view.bits) == (fleet.manifest.digest, config.layers, config.max_positions, 8)
        # Embedding and head of their own; per layer QKV with bias, output, gate and up, down, two norms; the last norm.
        qkv = 4 * 16 + 2 * 2 * 16
        layer = 72 * qkv + qkv + 64 * 72 + 3 * 72 * 104 + 2 * 72
        assert view.parameters == 2 * 272 * 72 + 3 * layer + 72
        (fleet.home.artifacts / "models" / "broken.json").write_text("{}")
        assert [model.name for model in coordinator.models()] == ["tiny"]


async def test_devices_are_found_again_after_a_restart_though_nobody_says_where(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        async with fleet.coordinating():
            pass
        async with Coordinator(fleet.home, interfaces=(), rules=QUICK) as again:  # no seeds, no mDNS
            await wait_online(again.devices, 2)
            assert {view.found_by for view in again.devices()} == {"memory"}


async def test_devices_and_discovery_tell_why(tmp_path: Path) -> None:
    stranger = TestFleet.open(tmp_path / "other").member("dev-x")
    async with fake_fleet(tmp_path / "ours") as fleet, fleet.coordinating() as coordinator, FakeDevice(stranger, "x") as foreign:
        [view] = coordinator.devices()
        assert (view.state, view.simulated, view.profile, view.energy_source, view.found_by) == ("online", True, "fake", "modelled", "seed")
        coordinator._registry.found(foreign.device, (foreign.address,), "mdns")
        await wait_until(lambda: any("another fleet" in device.detail for device in coordinator.devices()))
        assert coordinator.discovery().problems == ()
        assert {device.state for device in coordinator.devices()} == {"online", "offline"}


async def test_gauges_are_those_of_now(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.coordinating() as coordinator:
        [device] = fleet.devices
        device.is_told.gauges.MergeFrom(telemetry_pb2.Gauges(power_watts=4.5, temperature_celsius=91.0, throttled=True))
        await wait_until(lambda: coordinator.devices()[0].throttled)
        [view] = coordinator.devices()
        assert (view.power_watts, view.temperature_celsius, view.battery_fraction) == (4.5, 91.0, None)
        device.is_told.gauges.temperature_celsius = float("nan")  # what cannot be true is not shown
        await wait_until(lambda: coordinator.devices()[0].temperature_celsius is None)
        device.is_told.gauges.temperature_celsius = 50.0
        await wait_until(lambda: coordinator.devices()[0].power_watts == 4.5)
        await device.stop()
        await wait_until(lambda: coordinator.devices()[0].power_watts is None)


async def test_a_load_that_goes_on_is_no_device_that_holds_too_much(tmp_path: Path) -> None:
    """Its description, taken before, does not know of it."""
    async with fake_fleet(tmp_path) as fleet, fleet.coordinating() as coordinator:
        gauges = fleet.devices[0].is_told.gauges
        gauges.memory_used_bytes, gauges.memory_held_bytes = 2 << 30, 2 << 30
        await wait_until(lambda: coordinator.devices()[0].memory_held_bytes is not None)
        [view] = coordinator.devices()
        assert (view.memory_used_bytes, view.holds_too_much) == (2 << 30, False)
        gauges.memory_used_bytes = 0
        await wait_until(lambda: coordinator.devices()[0].holds_too_much)


async def test_plan_tells_what_is_present(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.coordinating() as coordinator:
        before = await coordinator.plan(PlanRequest("tiny"))
        assert before.stages[0].push_bytes > 0
        assert fleet.devices[0].stages == {}
        await deploy(coordinator)
        after = await coordinator.plan(PlanRequest("tiny"))
        assert after.stages[0].push_bytes == 0


async def test_replaced_stages_count_as_free_memory(tmp_path: Path) -> None:
    """A device that holds the old version and has no room for two takes the new one."""
    async with fake_fleet(tmp_path) as fleet, fleet.coordinating() as coordinator:
        need = await coordinator.plan(PlanRequest("tiny"))
        fleet.devices[0].is_told.memory_bytes = 2 * (need.stages[0].weight_bytes + need.stages[0].kv_bytes)
        await deploy(coordinator)
        assert (await coordinator.plan(PlanRequest("tiny"))).stages[0].memory_bytes >= need.stages[0].weight_bytes


async def test_restarted_coordinator_attaches_again_and_loads_nothing(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        async with fleet.deployed(stages=2):
            pass
        loads = [device.calls.count("LoadStage") for device in fleet.devices]
        assert [list(device.stages) for device in fleet.devices] == [["tiny-1"], ["tiny-1"]]
        head = fleet.devices[0]
        asked = head.calls.count("Generate")
        head.is_told.holds["Generate"] = asyncio.Event()
        async with fleet.coordinator() as coordinator:
            # It sees both devices while the head takes its time: that is no sign of a ring that does not stand.
            await wait_online(coordinator.devices, 2, 10)
            await wait_until(lambda: head.calls.count("Generate") > asked)
            await asyncio.sleep(0.5)  # two rounds of looking after deployments
            head.is_told.holds["Generate"].set()
            await wait_ready(coordinator)
            _, result = await ask(coordinator, GenerateRequest(prompt="hi"))
            assert result.finish_reason == "stop"
        assert [device.calls.count("LoadStage") for device in fleet.devices] == loads
        assert len(fleet.devices[0].attached) == 2


async def test_restarted_coordinator_waits_for_a_missing_device(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        async with fleet.deployed(stages=2):
            pass
        tail = fleet.devices[1]
        await tail.stop()
        async with fleet.coordinator() as coordinator:
            await wait_online(coordinator.devices, 1, 5)
            [view] = coordinator.deployments()
            assert view.state == "degraded"
            assert tail.name in view.detail
            [pipeline] = view.pipelines  # as it was planned, out of the store
            assert pipeline.decode_tokens_per_second > 0
            assert any("--stages 2" in line for line in pipeline.why)
            await tail.start()
            await wait_ready(coordinator)


async def test_device_that_restarts_gets_its_stage_back(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=2) as coordinator:
        head, tail = fleet.devices
        await tail.restart()
        await wait_until(lambda: "tiny-1" in tail.stages)
        await wait_ready(coordinator)
        assert head.calls.count("LoadStage") == 2  # the same order again: its neighbour might have moved
        pushed = tail.calls.count("PutBlob")
        await head.restart()
        await wait_until(lambda: "tiny-1" in head.stages)
        await wait_ready(coordinator)
        assert tail.calls.count("PutBlob") == pushed
        _, result = await ask(coordinator, GenerateRequest(prompt="hi"))
        assert result.finish_reason == "stop"


async def test_ready_again_only_when_the_lost_stage_is_there_and_the_stream_is_new(tmp_path: Path) -> None:
    """A device behind the head restarts: the head's own stream stands, but what is asked before the stage is back would be lost."""
    async with fake_fleet(tmp_path, 2) as fleet, fleet.deployed(stages=2) as coordinator:
        head, tail = fleet.devices
        seen: list[tuple[str, bool, int]] = []

        def look() -> bool:
            [view] = coordinator.deployments()
            seen.append((view.state, "tiny-1" in tail.stages, len(head.attached)))
            return view.state == "ready" and "degraded" in [state for state, *_ in seen]

        tail.is_told.holds["LoadStage"] = asyncio.Event()
        restarted = tail.calls.count("LoadStage")
        await tail.restart()
        await wait_until(lambda: look() or tail.calls.count("LoadStage") > restarted)
        assert "loaded again" in coordinator.deployments()[0].detail
        tail.is_told.holds["LoadStage"].set()
        await wait_until(look)
        first_degraded = [state for state, *_ in seen].index("degraded")
        assert {one for one in seen[first_degraded:] if one[0] == "ready"} == {("ready", True, 2)}


async def test_of_two_deployments_of_a_model_the_one_that_is_well_answers(tmp_path: Path) -> None:
    """The other's stream still stands."""
    async with fake_fleet(tmp_path, 3) as fleet, fleet.coordinating() as coordinator:
        head, tail, other = fleet.devices
        for name, devices in (("a", (head, tail)), ("b", (other,))):
            wish = PlanRequest("tiny", stages=len(devices), devices=tuple(device.name for device in devices))
            async for _ in coordinator.deploy(wish, name):
                pass
        await ask(coordinator, GenerateRequest(model="tiny", prompt="hi"))
        assert (len(head.submitted), len(other.submitted)) == (1, 0)
        tail.is_told.holds["LoadStage"] = asyncio.Event()
        await tail.restart()
        await wait_until(lambda: "loaded again" in coordinator.deployments()[0].detail)
        await ask(coordinator, GenerateRequest(model="tiny", prompt="hi"))
        assert (len(head.submitted), len(other.submitted)) == (1, 1)
        tail.is_told.holds["LoadStage"].set()


async def test_device_that_lost_its_disk_is_sent_everything_again(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        [device] = fleet.devices
        await device.stop()
        device.blobs.clear()
        device.complete.clear()
        await device.restart()
        await wait_until(lambda: "tiny-1" in device.stages)
        await wait_ready(coordinator)


async def test_removed_model_is_said_when_its_deployment_must_be_restored(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        fleet.artifacts.remove("tiny")
        await fleet.devices[0].restart()
        await wait_until(lambda: "no model 'tiny'" in coordinator.deployments()[0].detail)
        assert coordinator.deployments()[0].state == "degraded"


async def test_telemetry_by_device_counts_to_the_last_second(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        [device] = fleet.devices
        device.is_told.token_ids = [65, 66, 67]
        await ask(coordinator, GenerateRequest(prompt="hi"))
        [row] = await coordinator.telemetry(600, "device")
        assert (row.key, row.busy_joules, row.source) == (device.name, 3.0, "modelled")
        told = await coordinator.history(600, device.name)
        assert len(told.times) >= 60


async def test_leaving_under_load_ends_everything(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet:
        before = asyncio.all_tasks()
        async with fleet.deployed() as coordinator:
            fleet.devices[0].is_told.tokens_wait = asyncio.Event()
            asking = asyncio.create_task(ask(coordinator, GenerateRequest(prompt="hi")))
            await wait_until(lambda: fleet.devices[0].submitted)
            asking.cancel()
            await asyncio.wait([asking])
        # What is left are tasks of the device's own server, in this process too.
        ours = {task for task in asyncio.all_tasks() - before if "fleet" in str(task.get_coro()) and "fake" not in str(task.get_coro())}
        assert ours == set()


async def test_insecure_fleet_on_loopback(tmp_path: Path) -> None:
    identity = insecure_identity(tmp_path / "dev-1")
    async with FakeDevice(identity, "dev-1") as device:
        seeds = [f"{device.device}@{device.address}"]
        async with Coordinator(Home.open(tmp_path / "home"), seeds=seeds, interfaces=(), insecure=True, rules=QUICK) as coordinator:
            await wait_online(coordinator.devices, 1, 5)
            assert coordinator.devices()[0].name == "dev-1"


async def test_device_that_runs_none_of_our_graphs_is_not_planned_for(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        fleet.devices[0].is_told.dialects = ("another",)
        async with fleet.coordinating() as coordinator:
            plan = await coordinator.plan(PlanRequest("tiny"))
            assert [stage.device_name for stage in plan.stages] == [fleet.devices[1].name]
