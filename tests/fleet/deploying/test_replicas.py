"""Several pipelines of one deployment: requests are spread over them, and one that fails leaves the others serving."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.planning.plan import PlanRequest
from fleet.service.coordinator import Coordinator
from protos.errors import InvalidInput, NoSpace, TimedOut
from tests.support.fake_fleet import ask, fake_fleet, wait_ready
from tests.support.waiting import wait_online, wait_until

HI = GenerateRequest(prompt="hi")


async def deploy(coordinator: Coordinator, replicas: int, stages: int = 1) -> list[str]:
    return [event.kind async for event in coordinator.deploy(PlanRequest("tiny", stages=stages), None, replicas)]


async def test_each_pipeline_takes_devices_of_its_own(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 4) as fleet, fleet.coordinating() as coordinator:
        kinds = await deploy(coordinator, 2, stages=2)
        assert kinds.count("plan") == 2
        [view] = coordinator.deployments()
        assert [pipeline.pipeline_id for pipeline in view.pipelines] == ["tiny-1", "tiny-1.1"]
        assert [pipeline.state for pipeline in view.pipelines] == ["ready", "ready"]
        used = [stage.device_id for pipeline in view.pipelines for stage in pipeline.stages]
        assert sorted(used) == sorted(device.device for device in fleet.devices)
        assert view.slots == 2 * 16
        assert sorted(line for device in coordinator.devices() for line in device.stages)[0].startswith("tiny stage 0 of 2")
        assert {device.calls.count("StatBlobs") for device in fleet.devices} == {1}  # what they have is asked once per deploy


async def test_requests_go_where_the_least_is_outstanding(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.coordinating() as coordinator:
        await deploy(coordinator, 2)
        gate = asyncio.Event()
        for device in fleet.devices:
            device.is_told.tokens_wait = gate
        asking = [asyncio.create_task(ask(coordinator, HI)) for _ in range(6)]
        await wait_until(lambda: sum(len(device.submitted) for device in fleet.devices) == 6)
        assert [len(device.submitted) for device in fleet.devices] == [3, 3]
        running = [view for view in coordinator.requests() if view.state == "running"]
        assert sorted(view.pipeline_id for view in running) == ["tiny-1"] * 3 + ["tiny-1.1"] * 3
        gate.set()
        await asyncio.gather(*asking)
        assert {view.finish_reason for view in coordinator.requests()} == {"stop"}


async def test_a_lost_replica_leaves_the_other_serving_and_its_silent_requests_end_right(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.coordinating() as coordinator:
        await deploy(coordinator, 2)
        dying, other = fleet.devices
        dying.is_told.tokens_wait = asyncio.Event()  # it takes requests, and gives nothing
        asking = [asyncio.create_task(ask(coordinator, HI)) for _ in range(4)]
        await wait_until(lambda: len(dying.submitted) == 2)
        await dying.stop()
        results = [result for _, result in await asyncio.gather(*asking)]
        assert {result.finish_reason for result in results} == {"stop"}
        assert len(other.submitted) == 4
        moved = [view for view in coordinator.requests() if view.attempts == 2]
        assert [view.pipeline_id for view in moved] == ["tiny-1.1"] * 2
        [view] = coordinator.deployments()
        assert (view.state, [pipeline.state for pipeline in view.pipelines]) == ("degraded", ["waiting", "ready"])
        assert "1 of 2 pipelines answer" in view.detail
        assert (await ask(coordinator, HI))[1].finish_reason == "stop"
        dying.is_told.tokens_wait = None
        await dying.start()
        await wait_ready(coordinator)


async def test_what_has_begun_to_answer_goes_on_elsewhere(tmp_path: Path) -> None:
    """The other pipeline is told the tokens that came (tests/faults/test_recovery.py: so that it gives those that would have followed)."""
    async with fake_fleet(tmp_path, 2) as fleet, fleet.coordinating() as coordinator:
        await deploy(coordinator, 2)
        dying, other = fleet.devices
        dying.is_told.token_ids = (72,) * 1000
        dying.is_told.token_seconds = 0.01
        parts = coordinator.generate(GenerateRequest(prompt="hi", max_tokens=200))
        given = [await anext(parts)]
        await dying.stop()
        given += [part async for part in parts]
        result = given.pop()
        assert isinstance(result, GenerateResult)
        [submitted] = other.submitted
        forced = tuple(submitted.forced_ids)
        assert len(forced) > 0
        assert result.token_ids[: len(forced)] == forced
        assert result.token_ids == tuple(token for part in given for token in part.token_ids)
        assert (submitted.prompt_ids, submitted.sampling) == (dying.submitted[0].prompt_ids, dying.submitted[0].sampling)
        [view] = coordinator.requests()
        assert (view.state, view.finish_reason, view.attempts) == ("ended", "stop", 2)


async def test_too_many_replicas_are_refused_by_number(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 3) as fleet, fleet.coordinating() as coordinator:
        with pytest.raises(NoSpace, match="pipeline 2 of 2: 2 stages need 2 devices; 1 can be used") as refused:
            await deploy(coordinator, 2, stages=2)
        assert "--replicas" in refused.value.advice
        with pytest.raises(NoSpace, match="pipeline 4 of 4"):
            await deploy(coordinator, 4)
        with pytest.raises(InvalidInput, match="0 replicas"):
            await deploy(coordinator, 0)
        assert all(device.stages == {} for device in fleet.devices)


async def test_replicas_outlive_the_coordinator(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        async with fleet.coordinating() as coordinator:
            await deploy(coordinator, 2)
        loads = [device.calls.count("LoadStage") for device in fleet.devices]
        async with fleet.coordinator() as again:
            await wait_online(again.devices, 2, 10)
            await wait_ready(again)
            assert [pipeline.pipeline_id for pipeline in again.deployments()[0].pipelines] == ["tiny-1", "tiny-1.1"]
        assert [device.calls.count("LoadStage") for device in fleet.devices] == loads


async def test_a_request_is_cancelled_by_its_id(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        fleet.devices[0].is_told.tokens_wait = asyncio.Event()
        asking = asyncio.create_task(ask(coordinator, HI))
        await wait_until(lambda: fleet.devices[0].submitted)
        [view] = coordinator.requests()
        await coordinator.cancel(view.request_id)
        _, result = await asking
        assert (result.finish_reason, result.request_id) == ("cancelled", view.request_id)


async def test_a_deadline_ends_a_request_by_its_name(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        fleet.devices[0].is_told.token_ids = (72,) * 1000
        fleet.devices[0].is_told.token_seconds = 0.01
        with pytest.raises(TimedOut, match=r"deadline has passed, after \d+ tokens"):
            await ask(coordinator, GenerateRequest(prompt_ids=(72,), max_tokens=200, timeout_seconds=1.0))
        assert fleet.devices[0].cancelled == [1]
