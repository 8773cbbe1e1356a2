from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fleet.devices.link import DeviceLink
from fleet.devices.liveness import Liveness
from fleet.devices.registry import Registry
from protos.errors import InvalidInput, NotFound, Unavailable
from protos.ids import DeviceId
from protos.v1 import telemetry_pb2
from tests.support.fake_device import FakeDevice
from tests.support.fake_fleet import QUICK
from tests.support.members import TestFleet, credentials_of
from tests.support.proxy import Proxy
from tests.support.waiting import wait_online, wait_until

IMPATIENT = replace(QUICK, suspect_intervals=4, offline_seconds=0.8)


class Setup:
    def __init__(self, registry: Registry, device: FakeDevice, samples: list[telemetry_pb2.TelemetrySample]) -> None:
        self.registry = registry
        self.device = device
        self.samples = samples

    @property
    def record(self):
        return self.registry.record(self.device.device)

    def find(self) -> None:
        self.registry.found(self.device.device, (self.device.address,), "mdns")

    async def state(self, wanted: str) -> None:
        await wait_until(lambda: self.record.state == wanted)


@asynccontextmanager
async def setup(folder: Path, rules: Liveness = QUICK) -> AsyncIterator[Setup]:
    fleet = TestFleet.open(folder)
    samples: list[telemetry_pb2.TelemetrySample] = []
    ours = credentials_of(fleet.member("coordinator", "coordinator"))
    async with FakeDevice(fleet.member("dev-1"), "dev-1") as device, Registry(ours, samples.append, rules=rules) as registry:
        yield Setup(registry, device, samples)


def test_wait_grows_to_its_bound() -> None:
    waits = [Liveness().wait_seconds(failures) for failures in (0, 1, 2, 9, 100_000)]
    assert waits == pytest.approx([0.2, 0.36, 0.648, 10.0, 10.0])


async def test_device_comes_online_with_its_description_and_samples(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        s.find()
        await wait_online(s.registry.records, 1, 5)
        assert (s.record.name, s.record.address, s.record.detail) == ("dev-1", s.device.address, "")
        await wait_until(lambda: len(s.samples) >= 3)
        assert [sample.index for sample in s.samples[:3]] == [0, 1, 2]


async def test_silent_device_is_suspect_then_offline_and_comes_back(tmp_path: Path) -> None:
    async with setup(tmp_path, IMPATIENT) as s:
        s.find()
        await s.state("online")
        s.device.is_told.silent = True
        await s.state("suspect")
        assert s.record.connected
        assert "no telemetry" in s.record.detail
        await s.state("offline")
        s.device.is_told.silent = False
        await s.state("online")
        assert s.record.detail == ""


async def test_broken_stream_is_suspect_at_once_and_offline_when_nobody_listens(tmp_path: Path) -> None:
    async with setup(tmp_path, IMPATIENT) as s:
        s.find()
        await s.state("online")
        await s.device.stop()
        await s.state("suspect")
        await s.state("offline")
        await wait_until(lambda: s.record.detail == f"nobody listens at {s.device.address}")
        with pytest.raises(Unavailable, match="nobody listens"):
            s.registry.client(s.device.device)


async def test_restart_is_described_again(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        s.find()
        await s.state("online")
        boot = s.record.description.boot_id
        await s.device.restart()
        await wait_until(lambda: s.record.state == "online" and s.record.description.boot_id != boot)


async def test_an_advert_wakes_the_reconnect_at_once(tmp_path: Path) -> None:
    async with setup(tmp_path, replace(QUICK, first_wait_seconds=60, longest_wait_seconds=60)) as s:
        s.find()
        await s.state("online")
        await s.device.restart()
        await wait_until(lambda: not s.record.connected)
        s.find()
        await s.state("online")  # within wait_until's 10 s, not 60


async def test_device_at_a_new_address_is_found_again(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        s.find()
        await s.state("online")
        await s.device.stop()
        s.device.port = 0
        await s.device.start()
        s.find()
        await wait_until(lambda: s.record.state == "online" and s.record.address == s.device.address)


async def test_of_all_addresses_the_one_where_the_device_proves_itself_counts(tmp_path: Path) -> None:
    """Another device of the fleet answers at the first, nobody at the second."""
    fleet = TestFleet.open(tmp_path)
    async with setup(tmp_path) as s, FakeDevice(fleet.member("dev-2"), "dev-2") as another:
        s.registry.found(s.device.device, (another.address, "127.0.0.1:9", s.device.address), "mdns")
        await s.state("online")
        assert s.record.address == s.device.address
        assert s.record.addresses == (s.device.address, another.address, "127.0.0.1:9")  # so a neighbour is told
        assert another.calls == []


async def test_the_address_that_worked_is_tried_first_again_and_left_when_it_fails(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        s.find()
        await s.state("online")
        s.registry.found(s.device.device, ("127.0.0.1:9",), "mdns")  # forged, or a lease that is none any more
        assert s.record.addresses == (s.device.address, "127.0.0.1:9")
        old = s.device.address
        await s.device.restart()
        await wait_until(lambda: s.record.state == "online" and s.record.address == old)
        await s.device.stop()
        s.device.port = 0
        await s.device.start()
        s.find()
        await wait_until(lambda: s.record.state == "online" and s.record.address == s.device.address != old)
        assert s.record.addresses[0] == s.device.address


async def test_why_none_of_its_addresses_will_do(tmp_path: Path) -> None:
    """It is away for a while, not another, though another answers at one of its addresses."""
    fleet = TestFleet.open(tmp_path)
    async with setup(tmp_path) as s, FakeDevice(fleet.member("dev-2"), "dev-2") as another:
        s.find()
        await s.state("online")
        s.registry.found(s.device.device, (another.address,), "mdns")
        assert s.registry.unreached == []
        await s.device.stop()
        await wait_until(lambda: s.registry.unreached == [s.device.device])
        assert s.record.state == "suspect"
        assert s.record.detail == f"nobody listens at {s.device.address}; another device answers at {another.address}"


async def test_an_address_without_a_way_to_it_is_said_in_plain_words(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        s.registry.found(s.device.device, ("255.255.255.255:1",), "mdns")
        await wait_until(lambda: s.registry.unreached)
        assert s.record.detail == "this machine has no way to 255.255.255.255:1"


async def test_when_the_network_changes_a_silent_connection_is_not_waited_for(tmp_path: Path) -> None:
    """A connection through an address that has gone stands for as long as nobody sends: the kernel does not end it."""
    async with setup(tmp_path, replace(IMPATIENT, offline_seconds=60)) as s:
        s.find()
        await s.state("online")
        s.device.is_told.silent = True
        await s.state("suspect")
        described = s.device.calls.count("Describe")
        s.registry.network_changed()
        await wait_until(lambda: s.device.calls.count("Describe") > described)
        s.device.is_told.silent = False
        await s.state("online")


async def test_when_the_network_changes_whoever_is_away_is_tried_at_once(tmp_path: Path) -> None:
    async with setup(tmp_path, replace(QUICK, first_wait_seconds=60, longest_wait_seconds=60)) as s:
        s.find()
        await s.state("online")
        await s.device.restart()
        await wait_until(lambda: not s.record.connected)
        s.registry.network_changed()
        await s.state("online")  # within wait_until's 10 s, not 60


async def test_device_of_another_fleet_is_offline_and_says_why(tmp_path: Path) -> None:
    stranger = TestFleet.open(tmp_path / "other").member("dev-x")
    async with setup(tmp_path / "ours") as s, FakeDevice(stranger, "dev-x") as device:
        s.registry.found(device.device, (device.address,), "mdns")
        await wait_until(lambda: "TLS" in s.registry.record(device.device).detail)
        record = s.registry.record(device.device)
        assert record.state == "offline"
        assert "another fleet" in record.detail
        assert "\n" not in record.detail
        assert device.calls == []


async def test_advert_for_another_id_is_refused(tmp_path: Path) -> None:
    """A device cannot be dialled under a neighbour's name."""
    async with setup(tmp_path) as s:
        s.registry.found(DeviceId("a" * 16), (s.device.address,), "mdns")
        await wait_until(lambda: "another device answers" in s.registry.record(DeviceId("a" * 16)).detail)
        assert s.registry.record(DeviceId("a" * 16)).state == "offline"


async def test_other_protocol_or_other_claim_is_offline(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        s.device.is_told.protocol_version, s.device.is_told.oldest_protocol_version = 99, 98
        s.find()
        await wait_until(lambda: "protocol 98 to 99, this coordinator 1; update this coordinator" in s.record.detail)
        assert s.record.state == "offline"
        s.device.is_told.protocol_version, s.device.is_told.oldest_protocol_version = 1, 0
        s.device.is_told.claims_id = "somebody-else"
        await wait_until(lambda: "somebody-else" in s.record.detail)
        s.device.is_told.claims_id = None
        await s.state("online")


@pytest.mark.parametrize(("newest", "oldest"), [(1, 0), (2, 1)])
async def test_a_device_one_version_apart_is_online(tmp_path: Path, newest: int, oldest: int) -> None:
    async with setup(tmp_path) as s:
        s.device.is_told.protocol_version, s.device.is_told.oldest_protocol_version = newest, oldest
        s.find()
        await s.state("online")


async def test_removed_advert_forgets_only_who_never_answered(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        s.find()
        await s.state("online")
        ghost = DeviceId("b" * 16)
        s.registry.found(ghost, ("127.0.0.1:9",), "mdns")
        s.registry.gone(ghost)
        s.registry.gone(s.device.device)
        assert [record.name for record in s.registry.records()] == ["dev-1"]
        assert s.record.state == "online"


async def test_who_said_goodbye_and_is_not_needed_is_forgotten(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        s.find()
        await s.state("online")
        s.registry.gone(s.device.device)
        s.registry.forget_departed([])
        assert s.record.state == "online"  # whatever the network says
        await s.device.stop()
        await s.state("offline")
        s.registry.forget_departed([s.device.device])
        assert len(s.registry.records()) == 1
        s.registry.forget_departed([])
        assert s.registry.records() == []
        s.find()
        assert len(s.registry.records()) == 1


async def test_finding_by_name_or_id(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        with pytest.raises(NotFound) as none:
            s.registry.find("dev-1")
        assert "doctor" in none.value.advice
        s.find()
        await s.state("online")
        assert s.registry.find("dev-1") == s.registry.find(s.device.device)
        with pytest.raises(NotFound) as unknown:
            s.registry.find("dev-9")
        assert "dev-1" in unknown.value.advice
        twin = FakeDevice(TestFleet.open(tmp_path).member("twin"), "dev-1")
        async with twin:
            s.registry.found(twin.device, (twin.address,), "seed")
            await wait_online(s.registry.records, 2, 5)
            with pytest.raises(InvalidInput, match="2 devices") as several:
                s.registry.find("dev-1")
            assert {s.device.device, twin.device} == set(several.value.advice.removeprefix("use an id: ").split(", "))


async def test_sample_out_of_turn(tmp_path: Path) -> None:
    async with setup(tmp_path, replace(QUICK, interval_seconds=30, offline_seconds=60)) as s:
        s.find()
        await s.state("online")
        before = len(s.samples)
        await s.registry.sample()
        assert len(s.samples) == before + 1


async def test_closing_the_registry_fails_calls_that_are_under_way(tmp_path: Path) -> None:
    """gRPC would raise CancelledError in a task that nobody cancelled."""
    async with setup(tmp_path) as s:
        s.find()
        await s.state("online")
        client = s.registry.client(s.device.device)
        s.device.is_told.holds["StatBlobs"] = asyncio.Event()
        call = asyncio.create_task(client.stat_blobs([]))
        await wait_until(lambda: "StatBlobs" in s.device.calls)
        await s.registry.__aexit__(None, None, None)
        with pytest.raises(Unavailable, match="dev-1: the connection was closed"):
            await call
        s.device.is_told.holds["StatBlobs"].set()


async def test_a_key_that_two_boards_show_at_once_is_believed_of_neither(tmp_path: Path) -> None:
    """A stolen home, or an image that was copied with its key."""
    fleet = TestFleet.open(tmp_path)
    async with setup(tmp_path) as s, FakeDevice(fleet.member("dev-1"), "clone") as clone:
        s.find()
        await s.state("online")
        s.registry.found(s.device.device, (s.device.address, clone.address), "mdns")
        await s.state("offline")
        await wait_until(lambda: "two boards show its key" in s.record.detail)
        with pytest.raises(Unavailable, match="two boards show its key"):
            s.registry.client(s.device.device)


async def test_two_boards_that_were_there_from_the_start_are_noticed(tmp_path: Path) -> None:
    """Neither address is new: both were heard before there was a connection."""
    fleet = TestFleet.open(tmp_path)
    async with setup(tmp_path) as s, FakeDevice(fleet.member("dev-1"), "clone") as clone:
        s.registry.found(s.device.device, (s.device.address, clone.address), "mdns")
        await wait_until(lambda: "two boards show its key" in s.record.detail)


@pytest.mark.parametrize("first", [True, False])
async def test_a_board_that_starts_anew_while_it_is_compared_is_no_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    async with setup(tmp_path) as s:
        s.find()
        await s.state("online")
        async with Proxy(s.device.address) as forwarded:
            reach, compared = DeviceLink._reach, asyncio.Event()

            async def restarting(link: DeviceLink, address: str) -> Any:
                if first:
                    s.device._boot_id = "started anew"
                reached = await reach(link, address)
                s.device._boot_id = "started anew"
                compared.set()
                return reached

            monkeypatch.setattr(DeviceLink, "_reach", restarting)
            s.registry.found(s.device.device, (s.device.address, forwarded.address), "mdns")
            await compared.wait()
            await wait_until(lambda: not any("there twice" in task.get_name() for task in asyncio.all_tasks()))
            await s.registry.refresh([s.device.device])
            assert s.record.state == "online"


async def test_a_key_that_two_boards_show_in_turn_is_believed_of_neither(tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    async with setup(tmp_path) as s, FakeDevice(fleet.member("dev-1"), "clone") as clone:
        s.find()
        await s.state("online")
        boot, port = s.device._boot_id, s.device.port
        await s.device.stop()
        s.registry.found(s.device.device, (clone.address,), "mdns")
        await wait_until(lambda: s.record.state == "online" and s.record.address == clone.address)
        await clone.stop()
        s.device.port = port
        await s.device.start()
        s.device._boot_id = boot
        s.find()
        await wait_until(lambda: "two boards show its key in turn" in s.record.detail)
        assert s.record.state == "offline"


def started_anew(s: Setup, boot: str) -> bool:
    return s.record.state == "online" and s.record.description.boot_id != boot


async def test_one_board_at_two_addresses_or_that_starts_again_is_no_clone(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        s.find()
        await s.state("online")
        _, port = s.device.address.split(":")
        s.registry.found(s.device.device, (s.device.address, f"127.0.0.2:{port}", "127.0.0.1:9"), "mdns")
        for _ in range(3):
            boot = s.record.description.boot_id
            await s.device.restart()
            s.find()
            await wait_until(partial(started_anew, s, boot))
        assert s.record.detail == ""


async def test_one_that_is_expelled_is_not_dialled_any_more(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        s.find()
        await s.state("online")
        s.registry.expel(s.device.device)
        assert s.registry.records() == []
        s.registry.expel(s.device.device)  # again is no error
