"""Finding devices over real multicast on loopback, and by seeds."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from device.agent.announce import Announcement, service_info
from device.agent.identity import Identity
from fleet.devices import discovery as module
from fleet.devices.discovery import Candidate, Discovery, Seed, parse_seed
from fleet.devices.mdns import AdvertBrowser
from fleet.devices.remembered import Proven
from protos import ids
from protos.errors import InvalidInput
from protos.ids import SERVICE_TYPE, DeviceId, fleet_id
from protos.net import watch
from protos.net.interfaces import Interface, Survey
from protos.net.transport import serve
from tests.support.members import TestFleet
from tests.support.multicast import LOOPBACK, needs_multicast
from tests.support.waiting import wait_until

# Of this run alone: another run of these tests on the same machine speaks on the same wire.
RUN = os.urandom(8)
OURS, THEIRS = fleet_id(b"our fleet" + RUN), fleet_id(b"their fleet" + RUN)


def device_id(key: bytes) -> DeviceId:
    return ids.device_id(key + RUN)


class Ear:
    """What discovery said."""

    def __init__(self) -> None:
        self.found: list[Candidate] = []
        self.removed: list[DeviceId] = []

    def address(self, device: DeviceId) -> str | None:
        """The last one heard."""
        return next((candidate.addresses[0] for candidate in reversed(self.found) if candidate.device_id == device), None)


def discovery(ear: Ear, fleet: str = OURS, **options: object) -> Discovery:
    options = {"interfaces": [LOOPBACK], **options}
    return Discovery(fleet, None, ear.found.append, ear.removed.append, **options)  # type: ignore[arg-type]


def announcement(key: bytes, port: int, fleet: str = OURS) -> Announcement:
    return Announcement(device_id(key), fleet, port, [LOOPBACK])  # type: ignore[arg-type]


@asynccontextmanager
async def agent(identity: Identity, port: int = 0) -> AsyncIterator[str]:
    server, port = await serve(f"127.0.0.1:{port}", identity.device_id, identity.credentials, lambda _server: None)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@needs_multicast
async def test_devices_before_and_after_are_found_and_a_goodbye_is_heard() -> None:
    ear = Ear()
    one, two = device_id(b"one"), device_id(b"two")
    async with AsyncExitStack() as early:
        await early.enter_async_context(announcement(b"one", 7001))
        async with discovery(ear):
            async with announcement(b"two", 7002):
                await wait_until(lambda: ear.address(one) and ear.address(two))
                assert ear.removed == []
            await wait_until(lambda: ear.removed == [two])
            await early.aclose()
            await wait_until(lambda: ear.removed == [two, one])
    assert sorted(ear.found, key=lambda candidate: candidate.addresses) == [
        Candidate(one, ("127.0.0.1:7001",), "mdns"),
        Candidate(two, ("127.0.0.1:7002",), "mdns"),
    ]


@needs_multicast
async def test_two_fleets_on_one_host_do_not_see_each_other() -> None:
    ours, theirs = Ear(), Ear()
    async with (
        announcement(b"one", 7001),
        announcement(b"two", 7002, THEIRS),
        announcement(b"three", 7003, THEIRS),
        discovery(ours) as one,
        discovery(theirs, THEIRS) as other,
    ):
        await wait_until(
            lambda: ours.found and len(theirs.found) == 2 and one.report().other_fleets >= 2 and other.report().other_fleets >= 1
        )
        assert {candidate.device_id for candidate in ours.found} == {device_id(b"one")}
        assert {candidate.device_id for candidate in theirs.found} == {device_id(b"two"), device_id(b"three")}
        assert one.report().problems == ()


@needs_multicast
async def test_a_device_that_moves_is_found_again() -> None:
    """A crash says no goodbye: the new advert alone must do."""
    ear, device = Ear(), device_id(b"moving")

    async def heard_at(port: int) -> None:
        await wait_until(lambda: ear.address(device) == f"127.0.0.1:{port}")

    async with discovery(ear), AsyncZeroconf(interfaces=[LOOPBACK]) as responder:
        for port in (7001, 7002):
            await (await responder.async_register_service(service_info(device, OURS, port, [LOOPBACK]), cooperating_responders=True))
            await heard_at(port)
            responder.zeroconf.registry.async_remove(service_info(device, OURS, port, [LOOPBACK]))
        assert len(ear.found) == 2
        assert ear.removed == []


@needs_multicast
async def test_a_hundred_devices_are_all_found_once() -> None:
    ear = Ear()
    keys = [bytes([n]) for n in range(100)]
    async with AsyncZeroconf(interfaces=[LOOPBACK]) as responder, AsyncExitStack() as stack:
        for number, key in enumerate(keys):
            info = service_info(device_id(key), OURS, 7000 + number, [LOOPBACK])
            responder.zeroconf.registry.async_add(info)  # there before anybody asks, so the browser must ask
        await stack.enter_async_context(discovery(ear))
        await wait_until(lambda: len(ear.found) >= 100, 20)
    assert {candidate.device_id for candidate in ear.found} == {device_id(key) for key in keys}
    assert len(ear.found) == 100


@needs_multicast
async def test_an_advert_without_address_is_asked_for_until_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ear, lost = Ear(), 2
    ask = AsyncServiceInfo.async_request

    async def lossy(self: AsyncServiceInfo, *arguments: object, **options: object) -> bool:
        nonlocal lost
        if lost > 0:
            lost -= 1
            return False  # as when a packet is lost
        return await ask(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(AsyncServiceInfo, "load_from_cache", lambda *_: False)
    monkeypatch.setattr(AsyncServiceInfo, "async_request", lossy)
    async with discovery(ear) as found, announcement(b"one", 7001):
        await wait_until(lambda: ear.found)
        # Another test's last words on the same wire may be unresolved for a moment.
        await wait_until(lambda: found.report().problems == ())
    assert lost == 0
    assert ear.found == [Candidate(device_id(b"one"), ("127.0.0.1:7001",), "mdns")]


@needs_multicast
async def test_adverts_that_make_no_sense_are_not_dialled() -> None:
    ear, good = Ear(), device_id(b"good")
    liar = device_id(b"liar")
    nonsense = [
        AsyncServiceInfo(
            SERVICE_TYPE, f"printer.{SERVICE_TYPE}", port=1, parsed_addresses=[LOOPBACK], properties={"fleet": OURS, "id": "printer"}
        ),
        AsyncServiceInfo(
            SERVICE_TYPE, f"{liar}.{SERVICE_TYPE}", port=2, parsed_addresses=[LOOPBACK], properties={"fleet": OURS, "id": good}
        ),
        service_info(device_id(b"nowhere"), OURS, 3, ["224.0.0.1"]),
        service_info(device_id(b"no port"), OURS, 0, [LOOPBACK]),
        AsyncServiceInfo(SERVICE_TYPE, f"{device_id(b'bare')}.{SERVICE_TYPE}", port=4, parsed_addresses=[LOOPBACK], properties={}),
    ]
    async with AsyncZeroconf(interfaces=[LOOPBACK]) as responder, discovery(ear) as found:
        for info in [*nonsense, service_info(good, OURS, 7001, [LOOPBACK])]:
            await responder.async_register_service(info, cooperating_responders=True)
        await wait_until(lambda: ear.found and found.report().other_fleets >= 3)
        assert ear.found == [Candidate(good, ("127.0.0.1:7001",), "mdns")]


@needs_multicast
async def test_forged_adverts_take_bounded_memory_and_new_devices_are_still_found() -> None:
    found: dict[DeviceId, str] = {}
    removed: set[DeviceId] = set()  # so that whoever dials them forgets them too
    browser = AdvertBrowser(
        OURS,
        Survey(usable=(Interface(LOOPBACK),)),
        lambda device, addresses, _gateway: found.__setitem__(device, addresses[0]),
        removed.add,
        limit=10,
    )
    async with AsyncZeroconf(interfaces=[LOOPBACK]) as responder, browser:
        for number in range(30):
            info = service_info(device_id(b"forged %d" % number), OURS, 1, [LOOPBACK])
            await responder.async_register_service(info, cooperating_responders=True)
        await wait_until(lambda: browser.forgotten >= 20)
        real = service_info(device_id(b"real"), OURS, 7001, [LOOPBACK])
        await responder.async_register_service(real, cooperating_responders=True)
        await wait_until(lambda: device_id(b"real") in found)
        assert len(browser._adverts) == 10
        assert len(found.keys() - removed) <= 10


async def test_a_refusing_interface_is_told_and_the_others_serve() -> None:
    ear = Ear()
    async with discovery(ear, interfaces=["192.0.2.77", LOOPBACK]) as found:
        report = found.report()
    assert len(report.problems) == 1
    assert "192.0.2.77" in report.problems[0]
    assert report.interfaces == (LOOPBACK,)


@needs_multicast
async def test_a_network_that_comes_later_and_changes_is_browsed_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PERIOD_SECONDS", 0.02)
    ear, moved = Ear(), []
    lo = Interface(LOOPBACK, 8, "lo", 1)
    now = [Survey(mute=("eth0 has no carrier",))]
    async with announcement(b"one", 7001), discovery(ear, look=lambda _asked: now[0], moved=lambda: moved.append(1)) as found:
        report = found.report()
        assert (report.interfaces, report.mute, report.alone) == ((), ("eth0 has no carrier",), True)
        now[0] = Survey(usable=(lo,))
        await wait_until(lambda: ear.address(device_id(b"one")) and moved)
        assert found.report().interfaces == (LOOPBACK,)
        now[0] = Survey(problems=("mDNS is not possible on eth0",))
        await wait_until(lambda: len(moved) == 2)
        assert found.report().problems == ("mDNS is not possible on eth0",)
        now[0] = Survey(usable=(lo,))
        await wait_until(lambda: len(moved) == 3)
        async with announcement(b"two", 7002):
            await wait_until(lambda: ear.address(device_id(b"two")))


@needs_multicast
async def test_mdns_that_could_not_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its port was somebody else's alone."""
    monkeypatch.setattr(watch, "PERIOD_SECONDS", 0.02)
    start, refusals, ear = AdvertBrowser.__aenter__, [98], Ear()

    async def refused(self: AdvertBrowser) -> AdvertBrowser:
        if refusals:
            raise OSError(refusals[0], os.strerror(refusals[0]))
        return await start(self)

    monkeypatch.setattr(AdvertBrowser, "__aenter__", refused)
    async with announcement(b"one", 7001), discovery(ear) as found:
        assert found.report().problems == ("mDNS cannot start: Address already in use",)
        refusals.clear()
        await wait_until(lambda: ear.address(device_id(b"one")))
        assert found.report().problems == ()


@needs_multicast
async def test_whom_nobody_reached_is_asked_for_again_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has answered in a device's name; the device itself says nothing before it is asked."""
    monkeypatch.setattr(module, "_ASK_AGAIN_SECONDS", 0.02)
    ear, device = Ear(), device_id(b"real")
    missing: list[DeviceId] = []
    async with AsyncZeroconf(interfaces=[LOOPBACK]) as forger, AsyncZeroconf(interfaces=[LOOPBACK]) as responder:
        await forger.async_register_service(service_info(device, OURS, 9, ["10.9.9.9"]), cooperating_responders=True)
        async with discovery(ear, unreached=lambda: missing):
            await wait_until(lambda: ear.address(device) == "10.9.9.9:9")
            forger.zeroconf.registry.async_remove(service_info(device, OURS, 9, ["10.9.9.9"]))
            responder.zeroconf.registry.async_add(service_info(device, OURS, 7001, [LOOPBACK]))
            missing.append(device)
            await wait_until(lambda: any(f"{LOOPBACK}:7001" in candidate.addresses for candidate in ear.found))


async def test_of_many_that_are_missing_each_is_asked_for_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASK_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(module, "ASKED_AGAIN", 2)
    devices, asked = [DeviceId(letter * 16) for letter in "abcde"], []
    monkeypatch.setattr(AdvertBrowser, "ask_again", lambda _self, some: asked.append([device[0] for device in some]))
    async with discovery(Ear(), unreached=lambda: devices):
        await wait_until(lambda: len(asked) >= 6)
    assert asked[:6] == [["a", "b"], ["c", "d"], ["e"], ["a", "b"], ["c", "d"], ["e"]]


async def test_all_interfaces_by_default() -> None:
    async with discovery(Ear(), interfaces=None) as found:
        assert LOOPBACK in found.report().interfaces


async def test_a_seed_is_known_by_its_certificate_without_mdns(tmp_path: Path) -> None:
    fleet, ear = TestFleet.open(tmp_path), Ear()
    device, me = fleet.member("dev-1"), fleet.member("me", "coordinator")
    async with (
        agent(device) as address,
        Discovery(fleet.fleet_id, me.credentials, ear.found.append, seeds=[address], interfaces=()) as found,
    ):
        await wait_until(lambda: ear.found)
        assert ear.found == [Candidate(device.device_id, (address,), "seed")]
        report = found.report()
        assert (report.fleet_id, report.interfaces, report.seeds, report.problems) == (fleet.fleet_id, (), (address,), ())


async def test_a_seed_that_comes_later_is_found_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_DELAY_SECONDS", 0.05)
    fleet, ear = TestFleet.open(tmp_path), Ear()
    device, me = fleet.member("dev-1"), fleet.member("me", "coordinator")
    async with agent(device) as address:
        pass
    async with Discovery(fleet.fleet_id, me.credentials, ear.found.append, seeds=[address], interfaces=()) as found:
        await wait_until(lambda: found.report().problems)
        assert found.report().problems == (f"seed {address}: connection refused (is the device running?)",)
        async with agent(device, int(address.rpartition(":")[2])):
            await wait_until(lambda: ear.found)
            assert found.report().problems == ()


async def test_a_seed_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another device took the address."""
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(module, "_FIRST_DELAY_SECONDS", 0.05)
    fleet, ear = TestFleet.open(tmp_path), Ear()
    one, two, me = fleet.member("dev-1"), fleet.member("dev-2"), fleet.member("me", "coordinator")
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(agent(one))
        async with Discovery(fleet.fleet_id, me.credentials, ear.found.append, seeds=[address], interfaces=()):
            await wait_until(lambda: ear.found)
            await stack.aclose()
            async with agent(two, int(address.rpartition(":")[2])):
                await wait_until(lambda: len(ear.found) == 2)
    assert [candidate.device_id for candidate in ear.found] == [one.device_id, two.device_id]


async def test_a_seed_that_comes_back_is_said_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(module, "_FIRST_DELAY_SECONDS", 0.05)
    fleet, ear = TestFleet.open(tmp_path), Ear()
    device, me = fleet.member("dev-1"), fleet.member("me", "coordinator")
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(agent(device))
        async with Discovery(fleet.fleet_id, me.credentials, ear.found.append, seeds=[address], interfaces=()) as found:
            await wait_until(lambda: ear.found)
            await stack.aclose()
            await wait_until(lambda: found.report().problems)
            async with agent(device, int(address.rpartition(":")[2])):
                await wait_until(lambda: len(ear.found) == 2)
    assert ear.found == [Candidate(device.device_id, (address,), "seed")] * 2


async def test_who_is_remembered_is_looked_for_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mDNS and seeds. One has gone, and at its address another answers: of that nothing is said."""
    monkeypatch.setattr(module, "_FIRST_DELAY_SECONDS", 0.05)
    fleet, ear = TestFleet.open(tmp_path), Ear()
    one, late, me = fleet.member("dev-1"), fleet.member("dev-2"), fleet.member("me", "coordinator")
    async with agent(late) as later:
        pass
    async with agent(one) as address:
        remembered = [Proven(one.device_id, address), Proven(device_id(b"gone"), address), Proven(late.device_id, later)]
        async with Discovery(fleet.fleet_id, me.credentials, ear.found.append, remembered=remembered, interfaces=()) as found:
            await wait_until(lambda: ear.found)
            assert ear.found == [Candidate(one.device_id, (address,), "memory")]
            assert found.report().problems == ()
            async with agent(late, int(later.rpartition(":")[2])):
                await wait_until(lambda: len(ear.found) == 2)
    assert ear.found[1] == Candidate(late.device_id, (later,), "memory")


async def test_seeds_that_are_not_who_they_should_be(tmp_path: Path) -> None:
    fleet, stranger, ear = TestFleet.open(tmp_path), TestFleet.open(tmp_path / "other"), Ear()
    device, me = fleet.member("dev-1"), fleet.member("me", "coordinator")
    another = device_id(b"another")
    async with agent(device) as ours, agent(stranger.member("dev-1")) as theirs:
        seeds = [f"{another}@{ours}", theirs]
        async with Discovery(fleet.fleet_id, me.credentials, ear.found.append, seeds=seeds, interfaces=()) as found:
            await wait_until(lambda: len(found.report().problems) == 2)
            problems = "\n".join(found.report().problems)
    assert f"{ours} is device {device.device_id}, not {another}" in problems
    assert f"{theirs} is not of this fleet" in problems
    assert ear.found == []


async def test_without_tls_a_seed_must_name_its_device() -> None:
    ear, device = Ear(), device_id(b"x")
    async with discovery(ear, interfaces=(), seeds=[f"{device}@127.0.0.1:7001"]):
        await wait_until(lambda: ear.found)
    assert ear.found == [Candidate(device, ("127.0.0.1:7001",), "seed")]
    with pytest.raises(InvalidInput, match="without TLS nobody proves") as caught:
        discovery(Ear(), seeds=["127.0.0.1:7001"])
    assert "id@host:port" in caught.value.advice


def test_seeds_are_read() -> None:
    device = device_id(b"x")
    assert parse_seed(" host:7420 ") == Seed("host:7420")
    assert parse_seed(f"{device}@[::1]:7420") == Seed("[::1]:7420", device)
    assert str(parse_seed(f"{device}@host:1")) == f"{device}@host:1"
    for text in ("", "host", "@host:1", "dev-1@host:1", f"{device}@host"):
        with pytest.raises(InvalidInput):
            parse_seed(text)
