"""Devices that dial the coordinator: real agents, a real relay, TLS from end to end through it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from device.agent import dial_out
from device.agent.program import Agent, AgentConfig
from device.cpu import CpuHardware
from fleet.devices import relays
from fleet.devices.relays import Relays, _has_room
from fleet.trust.authority import Role
from protos.errors import Denied, FleetError, Unavailable
from protos.ids import DeviceId
from protos.net.transport import Peer, dial
from protos.rpc_errors import remote
from protos.v1 import device_pb2
from tests.support.members import TestFleet, credentials_of
from tests.support.waiting import wait_until


@dataclass
class Desk:
    fleet: TestFleet
    relay: Relays
    found: dict[DeviceId, tuple[str, ...]] = field(default_factory=dict)
    times: int = 0

    def peer(self, device: DeviceId, who: str = "coordinator") -> Peer:
        role: Role = "coordinator" if who == "coordinator" else "device"
        return dial(self.found[device][0], device, credentials_of(self.fleet.member(who, role)))

    async def name_of(self, device: DeviceId, who: str = "coordinator") -> str:
        peer = self.peer(device, who)
        try:
            with remote("it"):
                said = await peer.device_stub.Describe(device_pb2.DescribeRequest(), metadata=peer.metadata, timeout=5)
            return said.name
        finally:
            await peer.close()


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    fleet = TestFleet.open(tmp_path)
    ours = credentials_of(fleet.member("coordinator", "coordinator"))

    def found(device: DeviceId, addresses: tuple[str, ...]) -> None:
        made.found[device] = addresses
        made.times += 1

    async with Relays("127.0.0.1:0", ours, lambda: ("10.0.0.7",), found) as relay:
        made = Desk(fleet, relay)
        monkeypatch.setattr(dial_out, "_where", lambda _coordinator, _credentials: (f"127.0.0.1:{relay.port}", relay.member))
        monkeypatch.setattr(dial_out, "FIRST_WAIT_SECONDS", 0.05)
        yield made


@asynccontextmanager
async def board(desk: Desk, name: str = "hidden") -> AsyncIterator[DeviceId]:
    """An agent that dials out, once it is found."""
    member, hardware = desk.fleet.member(name), CpuHardware(1 << 20, 1)
    async with Agent(AgentConfig(desk.fleet.folder / name, name, "127.0.0.1", coordinator="desk:7400"), hardware):
        await wait_until(lambda: member.device_id in desk.found)
        yield member.device_id
    hardware.close()


async def refusal(desk: Desk, device: DeviceId, who: str) -> Denied:
    """A tunnel whose beats came late, as on a machine with too much to do, is dialled anew."""
    async with asyncio.timeout(20):
        while True:
            try:
                raise AssertionError(await desk.name_of(device, who))
            except Unavailable:
                await asyncio.sleep(0.05)
            except Denied as denied:
                return denied


async def test_one_is_reached_through_the_coordinator_and_proves_who_it_is(desk: Desk) -> None:
    async with board(desk) as device, board(desk, "other") as other:
        assert await asyncio.gather(desk.name_of(device), desk.name_of(other)) == ["hidden", "other"]
        own, far = desk.found[device]
        assert own.rpartition(":")[2] == far.rpartition(":")[2]
        assert far.startswith("10.0.0.7:")
        # Whoever is let through is nobody for that: the device itself judges.
        assert "is for a coordinator" in (await refusal(desk, device, "other")).detail
        desk.found[device] = desk.found[other]
        with pytest.raises(FleetError):
            await desk.name_of(device)


async def test_the_port_of_one_that_has_gone_stays_and_leads_nowhere(desk: Desk) -> None:
    async with board(desk) as device:
        before = desk.found[device]
    await wait_until(lambda: desk.relay._ports[device].tunnel is None)
    with pytest.raises(Unavailable):
        await desk.name_of(device)
    desk.found.clear()
    async with board(desk):
        assert desk.found[device] == before
        assert await desk.name_of(device) == "hidden"


async def test_one_that_dials_twice_is_reached_by_the_second(desk: Desk) -> None:
    async with board(desk) as device:
        first, before = desk.relay._ports[device].carrying, desk.found[device]
        peer = dial(f"127.0.0.1:{desk.relay.port}", desk.relay.member, credentials_of(desk.fleet.member("hidden")))
        call = peer.relay_stub.Carry(metadata=peer.metadata)
        await wait_until(lambda: desk.relay._ports[device].carrying not in (first, None))
        call.cancel()
        await peer.close()
        await wait_until(lambda: desk.times >= 3)  # the agent has dialled again
        assert desk.found[device] == before
        assert await desk.name_of(device) == "hidden"


async def test_one_that_is_expelled_is_cut_off_within_two_seconds(desk: Desk) -> None:
    async with board(desk) as device:
        start = time.monotonic()
        desk.relay._credentials.revoked.add([device])
        await wait_until(lambda: device not in desk.relay._ports, 2)
        assert time.monotonic() - start < 2
        with pytest.raises(FleetError):
            await desk.name_of(device)


async def test_strangers_take_no_place_from_the_fleet(desk: Desk) -> None:
    async with board(desk) as device:
        host, _, port = desk.found[device][0].rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(relays.MOST_OF_OURS)]
        try:
            with pytest.raises(FleetError):
                await desk.name_of(device)
        finally:
            for _, writer in silent:
                writer.close()
        await wait_until(lambda: not desk.relay._ports[device].open[host])
        assert await desk.name_of(device) == "hidden"


def test_room_is_kept_for_us_and_for_each_host() -> None:
    many = Counter({f"10.0.0.{number}": 1 for number in range(relays.MOST_OF_OTHERS)})
    assert not _has_room(many, "10.0.0.99")
    assert _has_room(many, "127.0.0.1")
    assert not _has_room(Counter({"10.0.0.1": relays.MOST_OF_ONE}), "10.0.0.1")
    assert _has_room(Counter({"10.0.0.1": relays.MOST_OF_ONE}), "10.0.0.2")
