"""Who answers at an address: only a certificate of our fleet is believed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fleet.devices.probe import client_context, probe
from protos.errors import Denied, InvalidInput, TimedOut, Unavailable
from protos.net.transport import Credentials, serve
from tests.support.black_hole import black_hole
from tests.support.members import TestFleet, credentials_of


@pytest.fixture
def fleet(tmp_path: Path) -> TestFleet:
    return TestFleet.open(tmp_path)


@asynccontextmanager
async def agent(fleet: TestFleet, name: str) -> AsyncIterator[str]:
    identity = fleet.member(name)
    server, port = await serve("127.0.0.1:0", identity.device_id, identity.credentials, lambda _server: None)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def listener(answer: bytes | None) -> AsyncIterator[str]:
    """Says `answer` to whoever connects and hangs up; None: says nothing and keeps the connection."""
    done = asyncio.Event()

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await done.wait()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        done.set()
        server.close()


async def test_of_a_name_with_several_addresses_one_that_is_silent_is_passed(fleet: TestFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    me = credentials_of(fleet.member("me", "coordinator"))
    async with agent(fleet, "dev-1") as address:
        port = int(address.rpartition(":")[2])

        async def resolve(_host: str, port: int, **_options: object) -> list[tuple]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.9", "127.0.0.1")]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        with black_hole("127.0.0.9", port):
            assert (await probe(f"gate-7.example:{port}", me, timeout_seconds=2.0)).device_id == fleet.member("dev-1").device_id


async def test_a_device_of_ours_is_known_by_its_certificate(fleet: TestFleet) -> None:
    me = credentials_of(fleet.member("me", "coordinator"))
    async with agent(fleet, "dev-1") as one, agent(fleet, "dev-2") as two:
        found = await asyncio.gather(probe(one, me), probe(two, me), probe(one.replace("127.0.0.1", "localhost"), me))
    first, second = fleet.member("dev-1").device_id, fleet.member("dev-2").device_id
    assert found == [(first, False), (second, False), (first, False)]


async def test_another_fleets_device_is_denied(fleet: TestFleet, tmp_path: Path) -> None:
    me = credentials_of(fleet.member("me", "coordinator"))
    async with agent(TestFleet.open(tmp_path / "other"), "dev-1") as address:
        with pytest.raises(Denied, match=f"{address} is not of this fleet"):
            await probe(address, me)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100])
async def test_who_speaks_no_tls_is_denied(fleet: TestFleet, answer: bytes) -> None:
    me = credentials_of(fleet.member("me", "coordinator"))
    async with listener(answer) as address:
        with pytest.raises(Denied, match="does not speak our TLS"):
            await probe(address, me)


async def test_nobody_and_silence(fleet: TestFleet) -> None:
    me = credentials_of(fleet.member("me", "coordinator"))
    async with listener(b"") as address:
        with pytest.raises(Unavailable):  # it hung up
            await probe(address, me)
    with pytest.raises(Unavailable, match="connection refused"):
        await probe(address, me)
    async with listener(None) as address:
        with pytest.raises(TimedOut, match=r"did not answer within 0\.1 s"):
            await probe(address, me, timeout_seconds=0.1)
    with pytest.raises(InvalidInput):
        await probe("nowhere", me)
    with pytest.raises(InvalidInput, match="not a host name"):
        await probe("x" * 70 + ".example:1", me)


async def test_it_leaves_nothing_open(fleet: TestFleet) -> None:
    me = credentials_of(fleet.member("me", "coordinator"))
    async with agent(fleet, "dev-1") as address:
        await probe(address, me)
        before = len(os.listdir("/dev/fd"))
        for _ in range(5):
            await probe(address, me)
        assert len(os.listdir("/dev/fd")) <= before + 1  # the server may still be closing the last one


def test_no_key_is_left_in_a_file(fleet: TestFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert client_context(credentials_of(fleet.member("me"))).verify_mode.name == "CERT_REQUIRED"
    assert list(folder.iterdir()) == []


async def test_a_caller_must_not_need_the_host_name(fleet: TestFleet) -> None:
    """The device's certificate names its id, and no address."""
    me = fleet.member("me", "coordinator")
    context = client_context(Credentials(*(getattr(me.credentials, name) for name in ("certificate", "private_key", "authority", "fleet"))))
    assert not context.check_hostname
