"""The advert, seen by a plain zeroconf browser over real multicast on loopback."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from device.agent.announce import Announcement, service_info
from protos.ids import SERVICE_TYPE, device_id, fleet_id
from protos.net import watch
from protos.net.interfaces import Interface, Survey
from protos.versions import SPOKEN
from tests.support.multicast import LOOPBACK, needs_multicast
from tests.support.waiting import wait_until

FLEET = fleet_id(b"the announcing fleet")


class Seen:
    """What a browser hears: the names that are up, and what the cache has of them."""

    def __init__(self, zeroconf: Zeroconf) -> None:
        self.up: set[str] = set()
        self._zeroconf = zeroconf

    def heard(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Added:
            self.up.add(name)
        elif state_change is ServiceStateChange.Removed:
            self.up.discard(name)

    def info(self, name: str) -> AsyncServiceInfo | None:
        info = AsyncServiceInfo(SERVICE_TYPE, name)
        return info if name in self.up and info.load_from_cache(self._zeroconf) else None

    def port(self, name: str) -> int | None:
        info = self.info(name)
        return info.port if info else None


@asynccontextmanager
async def browsing() -> AsyncIterator[Seen]:
    async with AsyncZeroconf(interfaces=[LOOPBACK]) as listener:
        seen = Seen(listener.zeroconf)
        async with AsyncServiceBrowser(listener.zeroconf, SERVICE_TYPE, handlers=[seen.heard]):
            yield seen


def name_of(key: bytes) -> str:
    return f"{device_id(key)}.{SERVICE_TYPE}"


@needs_multicast
async def test_the_advert_comes_says_what_it_must_and_goes() -> None:
    device = device_id(b"announced")
    name = name_of(b"announced")
    async with browsing() as seen:
        async with Announcement(device, FLEET, 7420, [LOOPBACK]):
            await wait_until(lambda: seen.info(name))
            info = seen.info(name)
            assert info is not None
            assert info.decoded_properties == {"txtvers": "1", "fleet": FLEET, "id": device, "p": str(SPOKEN.newest)}
            assert (info.parsed_addresses(IPVersion.V4Only), info.port) == ([LOOPBACK], 7420)
        await wait_until(lambda: name not in seen.up)  # by a goodbye: without one it would stay for 1125 s


@needs_multicast
async def test_a_device_comes_back_at_another_port() -> None:
    device, name = device_id(b"moving"), name_of(b"moving")
    async with browsing() as seen:

        async def seen_at(port: int) -> None:
            await wait_until(lambda: seen.port(name) == port)

        for port in (7001, 7002):
            async with Announcement(device, FLEET, port, [LOOPBACK]):
                await seen_at(port)


@needs_multicast
async def test_an_address_that_comes_is_told_and_one_that_goes_is_told_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started before its network, which then changes; the interface that is spoken on stays loopback here."""
    monkeypatch.setattr(watch, "PERIOD_SECONDS", 0.02)
    name = name_of(b"early")
    lo, first, second, third = (Interface(address, 8, "lo", 1) for address in (LOOPBACK, "192.168.7.2", "fe80::9", "10.9.9.9"))
    now = [Survey(mute=("eth0 has no address",))]
    async with browsing() as seen:

        def told() -> set[str]:
            info = seen.info(name)
            return set(info.parsed_addresses(IPVersion.All)) if info else set()

        async with Announcement(device_id(b"early"), FLEET, 7420, ["lo"], look=lambda _asked: now[0]):
            now[0] = Survey(usable=(lo,), asked=(lo, first))
            await wait_until(lambda: told() == {LOOPBACK, "192.168.7.2"})
            now[0] = Survey(usable=(lo,), asked=(lo, second))
            await wait_until(lambda: "fe80::9" in told())
            now[0] = Survey()  # all is gone: nothing can be said, and nothing fails
            await asyncio.sleep(0.1)
            now[0] = Survey(usable=(lo,), asked=(lo, third))
            await wait_until(lambda: "10.9.9.9" in told())
        await wait_until(lambda: name not in seen.up)


def test_loopback_is_announced_only_while_there_is_nothing_else() -> None:
    lo, eth = Interface(LOOPBACK, 8, "lo", 1), Interface("192.168.7.2", 24, "eth0", 2)
    for usable, announced in (((lo,), [LOOPBACK]), ((lo, eth), ["192.168.7.2"])):
        found = partial(lambda survey, _asked: survey, Survey(usable=usable, asked=usable))
        reachable = Announcement(device_id(b"x"), FLEET, 7420, look=found)._reachable()
        assert [one.address for one in reachable.asked] == [one.address for one in reachable.usable] == announced


@pytest.mark.parametrize("interface", ["192.0.2.77", "not an address"])
async def test_without_multicast_one_warning_and_on_it_goes(interface: str, caplog: pytest.LogCaptureFixture) -> None:
    entered = False
    with caplog.at_level(logging.WARNING, "device.agent.announce"):
        async with Announcement(device_id(b"x"), FLEET, 7420, [interface]):
            entered = True
    assert entered
    warnings = [record.getMessage() for record in caplog.records if record.name == "device.agent.announce"]
    assert len(warnings) == 1
    assert interface in warnings[0]
    assert "--seed" in warnings[0]


async def test_a_machine_that_allows_no_socket(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refused(*_arguments: object, **_options: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", refused)
    async with Announcement(device_id(b"x"), FLEET, 7420, [LOOPBACK]):
        pass
    assert "Operation not permitted" in caplog.text


@given(st.binary(max_size=50), st.binary(max_size=50), st.integers(1, 65535))
def test_it_fits_a_packet_whoever_it_is(device: bytes, fleet: bytes, port: int) -> None:
    info = service_info(device_id(device), fleet_id(fleet), port, [LOOPBACK])
    assert len(info.text) <= 200
    assert len(info.name.removesuffix(f".{SERVICE_TYPE}")) <= 63
    assert all(len(key) <= 9 for key in info.decoded_properties)
