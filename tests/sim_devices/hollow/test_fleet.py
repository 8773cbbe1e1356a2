"""Hollow devices under a whole coordinator: the control plane is real, an answer there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fleet.answering.views import GenerateRequest
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from fleet.service.coordinator import Coordinator
from protos.errors import Conflict, InvalidInput, NoSpace
from sim_devices.hollow.fleet import HollowFleet
from tests.support.checkpoints import TinyGlm
from tests.support.fake_device import FakeDevice
from tests.support.fake_fleet import QUICK, ask, deploy
from tests.support.hollow_fleet import hollow_fleet
from tests.support.members import TestFleet
from tests.support.ring import tiny_model
from tests.support.waiting import wait_online


@asynccontextmanager
async def coordinating(folder: Path, count: int, *seeds: str) -> AsyncIterator[tuple[Coordinator, HollowFleet]]:
    home = Home.open(folder)
    tiny_model(home.path, TinyGlm())
    async with (
        hollow_fleet(TestFleet.open(home.path), count) as fleet,
        Coordinator(
            home, seeds=[fleet.address, *seeds], interfaces=(), rules=QUICK, period_seconds=0.2, batch_seconds=0.05, discovery_seconds=0.0
        ) as coordinator,
    ):
        await wait_online(coordinator.devices, count + len(seeds), 10)
        yield coordinator, fleet


async def test_a_seed_finds_the_gateway_and_all_is_marked_hollow(tmp_path: Path) -> None:
    async with coordinating(tmp_path, 60) as (coordinator, fleet):
        views = coordinator.devices()
        assert len(views) == 60
        assert all(view.hollow and view.simulated and view.gateway == fleet.gateway and view.found_by == "seed" for view in views)
        assert {view.profile for view in views} == {"rk3588", "raspberry-pi-5"}
        [gateway] = coordinator.discovery().gateways
        assert (gateway.gateway_id, gateway.devices, gateway.online) == (fleet.gateway, 60, 60)
        async with asyncio.timeout(20):
            while len(rows := await coordinator.telemetry(60, "device")) < 60:  # noqa: ASYNC110 (the store tells nobody)
                await asyncio.sleep(0.05)
        assert all(row.hollow and row.source == "modelled" and row.busy_joules == 0 and (row.idle_joules or 0) > 0 for row in rows)


async def test_a_model_is_pushed_and_loaded_on_a_ring_that_answers_nothing(tmp_path: Path) -> None:
    async with coordinating(tmp_path, 20) as (coordinator, _):
        events = await deploy(coordinator, stages=2)
        [plan] = [event.plan for event in events if event.plan]
        assert all(stage.hollow and stage.push_bytes for stage in plan.stages)
        assert any("hollow" in line and "answer no prompt" in line for line in plan.why)
        assert [event.kind for event in events][-1] == "ready"
        held = [view for view in coordinator.devices() if view.stages]
        assert {view.device_id for view in held} == {stage.device_id for stage in plan.stages}
        assert all(view.memory_used_bytes for view in held)
        with pytest.raises(Conflict, match=r"hollow devices .*: they compute nothing"):
            await ask(coordinator, GenerateRequest(prompt="hello"))
        again = await coordinator.plan(PlanRequest("tiny", stages=2))
        assert [stage.push_bytes for stage in again.stages] == [0, 0]
        await coordinator.undeploy("tiny")
        assert not any(view.stages for view in coordinator.devices())


async def test_even_behind_the_coordinators_back_a_hollow_device_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.answering.generation.check_solid", lambda *_: None)
    async with coordinating(tmp_path, 2) as (coordinator, _):
        await deploy(coordinator)
        with pytest.raises(InvalidInput, match="this device is hollow: it computes nothing"):
            await ask(coordinator, GenerateRequest(prompt_ids=(5, 6, 7), max_tokens=3))


async def test_a_device_that_computes_is_never_passed_over_for_a_hollow_one(tmp_path: Path) -> None:
    real = TestFleet.open(tmp_path).member("dev-1")
    async with FakeDevice(real, "dev-1") as device, coordinating(tmp_path, 20, device.address) as (coordinator, _):
        plan = await coordinator.plan(PlanRequest("tiny"))
        assert [stage.device_name for stage in plan.stages] == ["dev-1"]
        assert "20 hollow devices are left out: they compute nothing" in plan.why
        with pytest.raises(NoSpace, match="2 stages need 2 devices; 1 can be used"):
            await coordinator.plan(PlanRequest("tiny", stages=2))
        by_name = await coordinator.plan(PlanRequest("tiny", devices=("hollow-1-7",)))
        assert [stage.device_name for stage in by_name.stages] == ["hollow-1-7"]
