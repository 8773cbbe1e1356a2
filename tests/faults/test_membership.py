"""A fleet that works while certificates are renewed, members are expelled, and one's home is copied."""

from __future__ import annotations

import asyncio
import shutil
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from device.agent.identity import load_identity
from device.agent.program import Agent, AgentConfig
from device.cpu import CpuHardware
from fleet.devices.discovery import Candidate
from fleet.planning.plan import PlanRequest
from protos.errors import Conflict, Denied, FleetError
from protos.ids import DeviceId
from protos.net.transport import dial
from protos.rpc_errors import remote
from protos.v1 import device_pb2
from tests.support.fake_fleet import ask
from tests.support.hollow_fleet import hollow_fleet
from tests.support.members import TestFleet, credentials_of
from tests.support.proxied_fleet import LONG, ProxiedFleet, proxied_fleet
from tests.support.waiting import wait_online, wait_until

LIFE = timedelta(seconds=3)


async def deploy(fleet: ProxiedFleet, stages: int) -> None:
    async for _ in fleet.coordinator.deploy(PlanRequest("tiny", stages=stages)):
        pass


def certificates(fleet: ProxiedFleet) -> list[bytes]:
    return [(box.state / "certificate.pem").read_bytes() for box in fleet.boxes]


async def test_certificates_are_renewed_under_load_and_no_request_is_lost(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 2, LIFE) as fleet:
        await deploy(fleet, 2)
        (_, first), before = await ask(fleet.coordinator, LONG), certificates(fleet)
        rounds, start = 0, time.monotonic()
        while rounds < 3:
            answers = await asyncio.gather(*(ask(fleet.coordinator, LONG) for _ in range(3)))  # raises when one is lost
            assert {answer.token_ids for _, answer in answers} == {first.token_ids}
            now = certificates(fleet)
            if all(one != two for one, two in zip(before, now, strict=True)):
                before, rounds = now, rounds + 1
            assert time.monotonic() - start < 60
        # The certificates of the start have ended long since: who comes now sees those of now, and shows one of now.
        for box in fleet.boxes:
            peer = dial(box.proxy.address, box.device, fleet.coordinator._credentials)
            with remote("it"):
                await peer.device_stub.Describe(device_pb2.DescribeRequest(), metadata=peer.metadata, timeout=5)
            await peer.close()


async def test_one_that_is_expelled_is_out_within_two_seconds_with_all_that_was_copied_of_it(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 3) as fleet:
        await deploy(fleet, 2)
        view = fleet.coordinator.deployments()[0]
        lost = next(box for box in fleet.boxes if box.device == view.pipelines[0].stages[1].device_id)
        other = next(box for box in fleet.boxes if box.device == view.pipelines[0].stages[0].device_id)
        shutil.copytree(lost.state, tmp_path / "stolen")
        answer = fleet.coordinator.generate(LONG)
        await anext(answer)
        start = time.monotonic()
        departure = await fleet.coordinator.expel(lost.name)
        assert (departure.device_id, departure.wiped) == (lost.device, False)
        with pytest.raises(FleetError):
            _ = [part async for part in answer]
        assert time.monotonic() - start < 2
        assert lost.device not in [device.device_id for device in fleet.coordinator.devices()]
        with pytest.raises(FleetError, match="no device"):
            await fleet.coordinator.expel(lost.name)

        # The thief has key and certificate, and starts the board elsewhere: nobody dials it, and nobody takes its word.
        stolen, hardware = load_identity(tmp_path / "stolen"), CpuHardware(1 << 30, 1)
        thief = Agent(AgentConfig(tmp_path / "stolen", "elsewhere", "127.0.0.1"), hardware)
        async with thief as address:
            fleet.coordinator._found(Candidate(lost.device, (address,), "mdns"))
            assert lost.device not in [device.device_id for device in fleet.coordinator.devices()]
            peer = dial(other.proxy.address, other.device, credentials_of(stolen))
            flow = peer.pipeline_stub.Flow(metadata=peer.metadata)
            with pytest.raises(Denied, match="was expelled"), remote("it"):
                await flow.read()
            await peer.close()
        hardware.close()


async def test_one_that_is_heard_of_while_it_is_expelled_is_not_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxied_fleet(tmp_path, 2) as fleet:
        lost, loop = fleet.boxes[0], asyncio.get_running_loop()
        assert fleet.coordinator._authority is not None
        members = fleet.coordinator._authority.members
        write, advert = members.revoke, Candidate(lost.device, (lost.proxy.address,), "mdns")

        async def hear() -> None:
            fleet.coordinator._found(advert)

        def revoke(member: DeviceId, name: str = "") -> None:
            asyncio.run_coroutine_threadsafe(hear(), loop).result(5)
            write(member, name)

        monkeypatch.setattr(members, "revoke", revoke)
        await fleet.coordinator.expel(lost.name)
        assert lost.device not in [device.device_id for device in fleet.coordinator.devices()]


async def test_one_behind_a_gateway_is_taken_out_with_its_gateway_alone(tmp_path: Path) -> None:
    """It has no key that could be expelled: to say that it was would be false."""
    async with proxied_fleet(tmp_path, 1) as fleet, hollow_fleet(TestFleet.open(tmp_path / "home"), 2) as hall:
        fleet.coordinator._found(Candidate(hall.gateway, (hall.address,), "mdns", gateway=True))
        await wait_online(fleet.coordinator.devices, 3)
        for take_out in (fleet.coordinator.expel, partial(fleet.coordinator.decommission, force=True)):
            with pytest.raises(Conflict, match="hollow-1-1 is no member of its own") as caught:
                await take_out("hollow-1-1")
            assert hall.gateway in caught.value.advice
        await fleet.coordinator.expel("hollow-1")
        assert [device.name for device in fleet.coordinator.devices()] == [fleet.boxes[0].name]


async def test_one_that_is_given_away_is_told_to_forget(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 2) as fleet:
        await deploy(fleet, 1)
        used = fleet.coordinator.deployments()[0].pipelines[0].stages[0].device_id
        box = next(box for box in fleet.boxes if box.device == used)
        with pytest.raises(FleetError, match="is used by tiny") as caught:
            await fleet.coordinator.decommission(box.name, force=False)
        assert "--force: tiny answers nothing until other devices have its stages" in caught.value.advice
        assert not box.agent.left.is_set()
        departure = await fleet.coordinator.decommission(box.name, force=True)
        assert (departure.wiped, departure.used_by) == (True, ("tiny",))
        assert box.agent.left.is_set()
        assert fleet.coordinator.deployments()[0].detail == f"{box.name} was removed from the fleet"
        # Nobody waits a minute for it to come back: the other has its stage at once.
        away = next(box for box in fleet.boxes if box.device != used)
        await wait_until(lambda: fleet.coordinator.deployments()[0].state == "ready", 20)
        assert fleet.coordinator.deployments()[0].pipelines[0].stages[0].device_id == away.device
        await away.agent.__aexit__(None, None, None)
        await wait_until(lambda: [device.state for device in fleet.coordinator.devices()] != ["online"])
        assert not (await fleet.coordinator.decommission(away.name, force=True)).wiped
        assert fleet.coordinator.devices() == []
        await wait_until(lambda: "no device is online" in fleet.coordinator.deployments()[0].detail)
        assert fleet.coordinator.deployments()[0].detail.startswith(f"{away.name} was removed from the fleet; it could not be moved")
