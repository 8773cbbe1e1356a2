"""Deployments that another version stored: shown, and their stages left where they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fleet.answering.views import GenerateRequest
from fleet.service.coordinator import Coordinator
from fleet.store.database import Store
from fleet.store.deployments import DeploymentRecords
from protos.errors import Conflict, NoSpace, NotFound
from tests.support.fake_fleet import FakeFleet, ask, deploy, fake_fleet, wait_ready
from tests.support.waiting import wait_online, wait_until

ROUNDS_SECONDS = 0.6  # three rounds of looking after deployments


@contextmanager
def edited(fleet: FakeFleet) -> Iterator[dict[str, Any]]:
    """The deployment's stored form, to be changed in place."""
    with Store(fleet.home.state_file) as store:
        [stored] = DeploymentRecords(store).deployments()
        plain = json.loads(stored.desired)
        yield plain
        plain.pop("sha256", None)  # as a coordinator of the release before leaves it
        DeploymentRecords(store).put_deployment(stored.name, stored.generation, json.dumps(plain))


def of_a_later_form(plain: dict[str, Any]) -> None:
    plain["form"] = 3


def without_a_key(plain: dict[str, Any]) -> None:
    del plain["pipelines"][0]["plan"]["stages"][0]["parts"]


def unloads(fleet: FakeFleet) -> int:
    return sum(device.calls.count("UnloadStage") for device in fleet.devices)


async def settled(fleet: FakeFleet, coordinator: Coordinator) -> None:
    await wait_online(coordinator.devices, len(fleet.devices), 10)
    await asyncio.sleep(ROUNDS_SECONDS)


@pytest.mark.parametrize("change", [of_a_later_form, without_a_key])
async def test_stages_stay_and_the_deployment_says_why(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        async with fleet.deployed(stages=2):
            pass
        with edited(fleet) as plain:
            change(plain)
        async with fleet.coordinator() as coordinator:
            await settled(fleet, coordinator)
            [view] = coordinator.deployments()
            assert (view.name, view.state, view.generation, view.stages) == ("tiny", "unreadable", 1, ())
            assert "undeploy tiny" in view.detail
            lines = sorted(line for device in coordinator.devices() for line in device.stages)
            assert [line.partition(": layers")[0] for line in lines] == ["tiny stage 0", "tiny stage 1"]  # of how many, nobody knows
            with pytest.raises(Conflict, match="tiny cannot be read"):
                await ask(coordinator, GenerateRequest(prompt="hi", model="tiny"))
        assert [list(device.stages) for device in fleet.devices] == [["tiny-1"], ["tiny-1"]]
        assert unloads(fleet) == 0


async def test_an_unknown_key_changes_nothing(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        async with fleet.deployed(stages=2):
            pass
        with edited(fleet) as plain:
            plain["pipelines"][0]["plan"]["colour"] = "blue"
        async with fleet.coordinator() as coordinator:
            await wait_ready(coordinator)
            await settled(fleet, coordinator)
        assert [device.calls.count("LoadStage") for device in fleet.devices] == [1, 1]
        assert unloads(fleet) == 0


async def test_what_the_release_before_stored_goes_on_as_it_is(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        async with fleet.deployed(stages=2):
            pass
        with edited(fleet) as plain:
            [pipeline] = plain["pipelines"]
            plain.clear()
            plain["plan"] = pipeline["plan"]
        async with fleet.coordinator() as coordinator:
            await wait_ready(coordinator)
            await settled(fleet, coordinator)
            assert [view.generation for view in coordinator.deployments()] == [1]
        assert [device.calls.count("LoadStage") for device in fleet.devices] == [1, 1]
        assert unloads(fleet) == 0


async def test_undeploy_takes_it_down(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        async with fleet.deployed(stages=2):
            pass
        with edited(fleet) as plain:
            of_a_later_form(plain)
        async with fleet.coordinator() as coordinator:
            await wait_online(coordinator.devices, 2, 10)
            with pytest.raises(NotFound) as unknown:
                await coordinator.undeploy("other")
            assert "tiny" in unknown.value.advice
            await coordinator.undeploy("tiny")
            assert coordinator.deployments() == []
            await wait_until(lambda: [device.stages for device in fleet.devices] == [{}, {}])
        async with fleet.coordinator() as again:
            assert again.deployments() == []


async def test_deploying_its_name_replaces_it(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        async with fleet.deployed(stages=2):
            pass
        with edited(fleet) as plain:
            of_a_later_form(plain)
        async with fleet.coordinating() as coordinator:
            await deploy(coordinator, stages=2)
            [view] = coordinator.deployments()
            assert (view.state, view.generation) == ("ready", 2)
            assert [list(device.stages) for device in fleet.devices] == [["tiny-2"], ["tiny-2"]]


async def test_a_replacement_that_fails_leaves_its_text_for_the_version_that_reads_it(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        async with fleet.deployed(stages=2):
            pass
        with edited(fleet) as plain:
            of_a_later_form(plain)
        async with fleet.coordinating() as coordinator:
            fleet.devices[1].is_told.errors["LoadStage"] = NoSpace("too small")
            with pytest.raises(NoSpace):
                await deploy(coordinator, stages=2)
            [view] = coordinator.deployments()
            assert (view.state, view.generation) == ("unreadable", 3)
        with Store(fleet.home.state_file) as store:
            [stored] = DeploymentRecords(store).deployments()
        assert (stored.generation, json.loads(stored.desired)) == (3, plain)
