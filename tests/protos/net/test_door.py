"""Floods of connections that say nothing, against real servers: who connects too often waits outside, and the others come in."""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import grpc.aio
import pytest

from device.agent.identity import Identity
from protos.net import door, transport
from protos.net.door import Address, program
from protos.net.transport import dial
from tests.support.fake_device import FakeDevice
from tests.support.members import TestFleet, credentials_of
from tests.support.waiting import wait_until

OTHER, THIRD = "127.0.0.2", "127.0.0.3"  # all of 127.0.0.0/8 is this machine, on Linux
ONE = ipaddress.ip_address


@contextmanager
def silent(port: int, source: str, count: int) -> Iterator[list[socket.socket]]:
    """Connections of an address that never say a word; not waited for."""
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            one = socket.socket()
            made.append(one)
            one.setblocking(False)
            one.bind((source, 0))
            one.connect_ex(("127.0.0.1", port))
        yield made
    finally:
        for one in made:
            one.close()


def let_go(one: socket.socket) -> bool:
    """Whether the far side has ended it."""
    try:
        return one.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def reached(device: FakeDevice, me: Identity) -> None:
    """As a member does it: again and again."""
    peer = dial(device.address, device.device, credentials_of(me))
    try:
        while True:
            try:
                await transport.connected(peer)
                return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
    finally:
        await peer.close()


def connects(source: str, address: tuple[str, int], seconds: float = 0.5) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET) as one:
        one.settimeout(seconds)
        one.bind((source, 0))
        try:
            one.connect(address)
        except TimeoutError:
            return False
        return True


@pytest.mark.parametrize("barred", [[OTHER], [OTHER, "10.0.0.9"], ["10.0.0.9", "fe80::7", OTHER], ["fe80::7"] * 3 + [OTHER, "::2"]])
def test_the_filter_keeps_out_whom_it_names_and_nobody_else(barred: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        door._attach(listening, program({ONE(each) for each in barred}))
        assert not connects(OTHER, listening.getsockname())
        assert connects(THIRD, listening.getsockname())
        door._attach(listening, program(()))
        assert connects(OTHER, listening.getsockname())


def test_the_filter_knows_the_newer_internet_protocol_too() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        door._attach(listening, program([ONE("::2"), ONE("::1:1"), ONE(OTHER)]))
        assert connects("::1", listening.getsockname()[:2])
        door._attach(listening, program([ONE("::2"), ONE("::1")]))
        assert not connects("::1", listening.getsockname()[:2])


def test_as_many_addresses_as_are_barred_at_once_are_a_filter_that_the_kernel_takes() -> None:
    many: set[Address] = {ONE(f"fd00::{n:x}") for n in range(1, door.MOST_BARRED)} | {ONE(OTHER)}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        door._attach(listening, program(many))
        assert not connects(OTHER, listening.getsockname())


@pytest.mark.long
async def test_one_address_cannot_keep_the_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MOST_IN_ALL", 100)
    fleet = TestFleet.open(tmp_path)
    me = fleet.member("me", "coordinator")
    async with FakeDevice(fleet.member("dev-1"), "dev-1") as device:
        with silent(device.port, OTHER, 300) as made:
            await wait_until(lambda: sum(map(let_go, made)) >= 200)  # those beyond the limit, at once
            guard = device._server
            assert isinstance(guard, door.Door)
            await wait_until(lambda: OTHER in guard.barred)
            assert THIRD not in guard.barred
            started = time.monotonic()
            with silent(device.port, OTHER, 100) as more:  # they are not let in any more
                await reached(device, me)
                assert time.monotonic() - started < 2 * door.HANDSHAKE_SECONDS
                await wait_until(lambda: all(map(let_go, made)))  # their time is up
                assert sum(map(let_go, more)) == 0
        await wait_until(lambda: not guard.barred, door.BARRED_SECONDS + 5)
        assert connects(OTHER, ("127.0.0.1", device.port))


@pytest.mark.long
async def test_many_addresses_together_do_not_keep_a_member_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MOST_IN_ALL", 64)
    monkeypatch.setattr(door, "HANDSHAKE_SECONDS", 0.5)  # for so long a member counts as a stranger
    fleet = TestFleet.open(tmp_path)
    me = fleet.member("me", "coordinator")
    async with FakeDevice(fleet.member("dev-1"), "dev-1") as device, AsyncExitStack() as stack:
        peer = dial(device.address, device.device, credentials_of(me))
        stack.push_async_callback(peer.channel.close)
        await transport.connected(peer)
        guard = device._server
        assert isinstance(guard, door.Door)
        await wait_until(lambda: any(time.monotonic() - since > 1 for since in guard._since.values()))
        for n in range(1, 40):
            stack.enter_context(silent(device.port, f"127.0.1.{n}", 4))
        await wait_until(lambda: len(guard.barred) >= 8)
        assert "127.0.0.1" not in guard.barred
        await asyncio.wait_for(reached(device, me), 2 * 5.0)


async def test_a_server_that_has_stopped_leaves_its_port(tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    async with FakeDevice(fleet.member("dev-1"), "dev-1") as device:
        await device.restart()
        assert connects("127.0.0.1", ("127.0.0.1", device.port))


def test_half_of_the_descriptors_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, gateway, most in [(1024, False, 512), (256, False, 128), (100, True, 64), (20_000, True, 4096), (1024, True, 512)]:
        monkeypatch.setattr(resource, "getrlimit", lambda _which, soft=soft: (soft, soft))
        assert door.most_connections(gateway=gateway) == most


@pytest.mark.parametrize(
    ("young", "proven", "barred"),
    [
        ({"a": 33, "b": 1}, (), ["a"]),
        ({"a": 32, "b": 32}, (), []),
        ({"a": 33}, ("a",), ["a"]),  # a member's neighbours behind one address: what stands is not touched
        ({"a": 30, "b": 30, "c": 30, "d": 30, "e": 1}, (), ["a"]),
        ({"a": 30, "b": 30, "c": 30, "d": 30, "e": 1}, ("a",), ["b"]),
        ({"a": 33, "b": 90, "c": 1}, (), ["b", "a"]),
    ],
)
def test_who_goes_out_first(young: dict[str, int], proven: tuple[str, ...], barred: list[str]) -> None:
    assert door._too_many(Counter(young), proven, room=100) == barred
