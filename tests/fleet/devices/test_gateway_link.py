"""Many devices over one connection: what a gateway says of its own is believed, of others not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from device.agent.gateway_service import GatewayService
from device.agent.identity import Identity
from fleet.devices import gateway_link as module
from fleet.devices.registry import Registry
from protos.errors import NotFound, Unavailable
from protos.ids import DeviceId, member_id
from protos.net import transport
from protos.v1 import device_pb2, gateway_pb2_grpc, telemetry_pb2
from protos.versions import SPOKEN
from tests.support.fake_device import FakeDevice
from tests.support.fake_fleet import QUICK
from tests.support.hollow_fleet import hollow_fleet, watching
from tests.support.members import TestFleet, credentials_of
from tests.support.waiting import wait_online, wait_until

IMPATIENT = replace(QUICK, suspect_intervals=4, offline_seconds=0.8)


async def test_all_are_online_described_and_heard_over_one_connection(tmp_path: Path) -> None:
    async with watching(tmp_path, 300) as w:
        records = w.registry.records()
        assert {record.name for record in records} == {f"hollow-1-{number}" for number in range(1, 301)}
        assert all(record.gateway == w.fleet.gateway and record.address == w.fleet.address and record.connected for record in records)
        assert all(record.description.accelerator.hollow for record in records)
        [gateway] = w.registry.gateways()
        assert (gateway.name, gateway.devices, gateway.online, gateway.connected, gateway.detail) == ("hollow-1", 300, 300, True, "")
        await wait_until(lambda: len(w.samples) >= 900)
        by_device: dict[str, list[int]] = {}
        for sample in w.samples[:900]:
            by_device.setdefault(sample.device_id, []).append(sample.index)
        assert all(indexes == list(range(len(indexes))) for indexes in by_device.values())


async def test_each_is_called_by_its_own_name(tmp_path: Path) -> None:
    async with watching(tmp_path, 3) as w:
        for record in w.registry.records():
            described = await w.registry.client(record.device_id).describe()
            assert (described.device_id, described.name) == (record.device_id, record.name)


async def test_one_that_falls_silent_goes_offline_alone_and_comes_back_anew(tmp_path: Path) -> None:
    async with watching(tmp_path, 3, IMPATIENT) as w:
        device = w.fleet.devices["2"]
        boot = w.registry.record(device.device_id).description.boot_id
        await device.stop()
        await wait_until(lambda: w.states() == {"hollow-1-1": "online", "hollow-1-2": "offline", "hollow-1-3": "online"})
        with pytest.raises(Unavailable, match="no telemetry"):
            w.registry.client(device.device_id)
        await device.start()
        await wait_until(lambda: set(w.states().values()) == {"online"})
        assert w.registry.record(device.device_id).description.boot_id != boot
        await w.registry.client(device.device_id).describe()


async def test_one_taken_away_is_forgotten(tmp_path: Path) -> None:
    async with watching(tmp_path, 2) as w:
        device = w.fleet.devices.pop("2")
        await wait_until(lambda: list(w.states()) == ["hollow-1-1"])
        assert w.registry.record(device.device_id) is None
        await device.stop()


async def test_a_gateway_that_ends_takes_all_with_it_and_brings_all_back(tmp_path: Path) -> None:
    members = TestFleet.open(tmp_path)
    ours = credentials_of(members.member("coordinator", "coordinator"))
    async with Registry(ours, lambda _sample: None, rules=IMPATIENT) as registry:
        async with hollow_fleet(members, 5) as fleet:
            registry.found_gateway(fleet.gateway, (fleet.address,), "mdns")
            await wait_online(registry.records, 5, 10)
            known = {record.device_id for record in registry.records()}
        await wait_until(lambda: {record.state for record in registry.records()} == {"offline"})
        assert all("its gateway hollow-1: nobody listens" in record.detail for record in registry.records())
        async with hollow_fleet(members, 5, port=int(fleet.address.rpartition(":")[2])):
            await wait_until(lambda: {record.state for record in registry.records()} == {"online"})
            assert {record.device_id for record in registry.records()} == known


async def test_after_a_goodbye_the_offline_are_forgotten_unless_needed(tmp_path: Path) -> None:
    members = TestFleet.open(tmp_path)
    ours = credentials_of(members.member("coordinator", "coordinator"))
    async with Registry(ours, lambda _sample: None, rules=IMPATIENT) as registry:
        async with hollow_fleet(members, 2) as fleet:
            registry.found_gateway(fleet.gateway, (fleet.address,), "mdns")
            await wait_online(registry.records, 2, 10)
            registry.gone(fleet.gateway)
            registry.forget_departed([])
            assert len(registry.records()) == 2  # it still answers: a goodbye is hearsay
        await wait_until(lambda: {record.state for record in registry.records()} == {"offline"})
        registry.forget_departed([registry.records()[0].device_id])
        assert len(registry.records()) == 2
        registry.forget_departed([])
        assert (registry.records(), registry.gateways()) == ([], [])


async def test_a_thousand_are_asked_in_one_round(tmp_path: Path) -> None:
    async with watching(tmp_path, 40, replace(QUICK, interval_seconds=60.0)) as w:
        before = len(w.samples)
        await w.registry.sample()
        assert len(w.samples) == before + 40
        await w.registry.refresh([record.device_id for record in w.registry.records()])
        assert len(w.samples) == before + 80  # by the same round, not by forty calls


@dataclass
class Liar:
    """A member whose words are given."""

    said: device_pb2.DeviceDescription
    told: telemetry_pb2.TelemetrySample
    boot_id: str = "boot"
    answers: bool = True

    def describe(self) -> device_pb2.DeviceDescription:
        return self.said

    def sample(self) -> telemetry_pb2.TelemetrySample:
        return self.told


@dataclass
class Heard:
    samples: list[telemetry_pb2.TelemetrySample] = field(default_factory=list)
    registry: Registry | None = None


def words_of(device: str, name: str = "x", version: int = SPOKEN.newest) -> Liar:
    description = device_pb2.DeviceDescription(protocol_version=version, device_id=device, name=name, boot_id="boot")
    return Liar(description, telemetry_pb2.TelemetrySample(device_id=device, boot_id="boot"))


@asynccontextmanager
async def told_by(members: TestFleet, make: Callable[[DeviceId], dict[str, Liar]], gateway: Identity) -> AsyncIterator[Heard]:
    ours = credentials_of(members.member("coordinator", "coordinator"))
    service = GatewayService("liar", make(gateway.device_id))
    server, port = await transport.serve(
        "127.0.0.1:0",
        gateway.device_id,
        gateway.credentials,
        lambda server: gateway_pb2_grpc.add_GatewayServicer_to_server(service, server),
        {},
    )
    heard = Heard()
    try:
        async with Registry(ours, heard.samples.append, rules=QUICK) as registry:
            heard.registry = registry
            registry.found_gateway(gateway.device_id, (f"127.0.0.1:{port}",), "mdns")
            yield heard
    finally:
        await server.stop(None)


async def test_a_gateway_cannot_speak_for_a_device_that_is_not_its_own(tmp_path: Path) -> None:
    members = TestFleet.open(tmp_path)
    async with FakeDevice(members.member("dev-1"), "dev-1") as victim:

        def make(gateway: DeviceId) -> dict[str, Liar]:
            return {
                "1": words_of(member_id(gateway, "1"), "honest"),
                "2": words_of(victim.device, "dev-1"),
                victim.device: words_of(victim.device),
            }

        async with told_by(members, make, members.member("gateway", "gateway")) as heard:
            registry = heard.registry
            assert registry is not None
            registry.found(victim.device, (victim.address,), "mdns")
            await wait_until(lambda: len(heard.samples) >= 20)
            assert registry.record(victim.device).gateway is None
            assert registry.record(victim.device).description.agent_version == "fake"
            assert {sample.boot_id for sample in heard.samples if sample.device_id == victim.device} <= {victim._boot_id}
            states = {record.name: record.state for record in registry.records() if record.device_id != victim.device}
            assert states.pop("honest") == "online"
            assert set(states.values()) == {"offline"}
            with pytest.raises(Unavailable, match="it says that it is"):
                registry.client(member_id(members.member("gateway", "gateway").device_id, "2"))


async def test_an_advert_in_its_name_does_not_stand_before_a_device_behind_a_gateway(tmp_path: Path) -> None:
    async with watching(tmp_path, 2) as w:
        device = w.fleet.devices["1"].device_id
        w.registry.found(device, ("127.0.0.1:9",), "mdns")
        assert len(w.registry.records()) == 2
        assert w.registry.record(device).gateway == w.fleet.gateway
        assert (await w.registry.client(device).describe()).device_id == device


async def test_a_device_is_no_gateway_and_a_gateway_no_device(tmp_path: Path) -> None:
    members = TestFleet.open(tmp_path)
    ours = credentials_of(members.member("coordinator", "coordinator"))
    async with (
        FakeDevice(members.member("dev-1"), "dev-1") as device,
        hollow_fleet(members, 1) as fleet,
        Registry(ours, lambda _sample: None, rules=QUICK) as registry,
    ):
        registry.found_gateway(device.device, (device.address,), "mdns")
        registry.found(fleet.gateway, (fleet.address,), "mdns")
        await wait_until(lambda: "another device answers" in registry.record(fleet.gateway).detail)
        await wait_until(lambda: "another device answers" in registry.gateways()[0].detail)
        assert device.calls == []


async def test_no_more_members_than_can_be_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMBERS", 10)
    members = TestFleet.open(tmp_path)

    def make(gateway: DeviceId) -> dict[str, Liar]:
        return {str(number): words_of(member_id(gateway, str(number)), f"m-{number}") for number in range(300)}

    async with told_by(members, make, members.member("gateway", "gateway")) as heard:
        registry = heard.registry
        assert registry is not None
        await wait_until(lambda: registry.gateways() and "beyond 10" in registry.gateways()[0].detail)
        assert len(registry.records()) == 10


async def test_another_protocol_is_said(tmp_path: Path) -> None:
    members = TestFleet.open(tmp_path)

    def make(gateway: DeviceId) -> dict[str, Liar]:
        return {"1": words_of(member_id(gateway, "1"), "old", SPOKEN.newest + 1)}

    async with told_by(members, make, members.member("gateway", "gateway")) as heard:
        registry = heard.registry
        assert registry is not None
        await wait_until(lambda: any("protocol" in record.detail for record in registry.records()))


async def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with watching(tmp_path, 20):
        pass
    await wait_until(lambda: asyncio.all_tasks() <= before)


async def test_a_call_for_none_of_its_devices_is_refused(tmp_path: Path) -> None:
    async with watching(tmp_path, 1) as w:
        client = w.registry.client(w.fleet.devices["1"].device_id)
        client.peer = client.peer.to(DeviceId("a" * 16))
        with pytest.raises(NotFound, match=f"this is gateway {w.fleet.gateway}, the call is for aaaa"):
            await client.describe()
