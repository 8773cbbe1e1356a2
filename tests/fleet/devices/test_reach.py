"""Why a device cannot be reached, found out over real sockets and real certificates."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from device.agent.enrolling import Enrollable
from device.agent.identity import Identity, load_identity
from fleet.devices import reach
from fleet.devices.reach import attempt, judged
from fleet.trust.authority import Authority
from protos.net import transport
from protos.net.credentials import Credentials
from tests.support.black_hole import black_hole
from tests.support.members import TestFleet, credentials_of


@pytest.fixture
def ours(tmp_path: Path) -> TestFleet:
    return TestFleet.open(tmp_path / "ours")


@pytest.fixture
def coordinator(ours: TestFleet) -> Credentials:
    return credentials_of(ours.member("coordinator", "coordinator"))


@asynccontextmanager
async def answering(identity: Identity) -> AsyncIterator[str]:
    server, port = await transport.serve("127.0.0.1:0", identity.device_id, identity.credentials, lambda _server: None)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def member_of_another_day(folder: Path, day: datetime) -> Identity:
    """Of `folder`'s fleet, certified on that day."""
    Authority.open(folder / "authority", clock=lambda: day).issue_folder(folder / "away", "device", "away")
    return load_identity(folder / "away", lambda: day)


async def test_a_device_of_ours_one_of_another_fleet_and_another_of_ours(ours: TestFleet, coordinator: Credentials, tmp_path: Path) -> None:
    mine, other = ours.member("gate-7"), ours.member("gate-9")
    stranger = TestFleet.open(tmp_path / "theirs").member("gate-7")
    async with answering(mine) as here, answering(other) as beside, answering(stranger) as there:
        found = [await attempt(address, mine.device_id, coordinator, time.time()) for address in (here, beside, there)]
    assert [(one.outcome, one.detail) for one in found] == [
        ("answers", ""),
        ("another device", other.device_id),
        ("another fleet", stranger.fleet_id),
    ]


@pytest.mark.parametrize(("days", "outcome"), [(-3, "expired"), (3, "not yet valid")])
async def test_certificates_are_judged_by_the_caller_s_clock(tmp_path: Path, days: int, outcome: str) -> None:
    now = datetime.now(UTC)
    fleet = TestFleet(tmp_path, Authority.open(tmp_path / "authority", clock=lambda: now - timedelta(days=9)))
    device = member_of_another_day(tmp_path, now + timedelta(days=days))
    assert device.credentials is not None
    coordinator = Credentials(b"", b"", device.credentials.authority, fleet.fleet_id)
    async with answering(device) as address:
        found = await attempt(address, device.device_id, coordinator, now.timestamp())
    assert found.outcome == outcome
    assert " UTC" in found.detail


async def test_nobody_one_who_says_nothing_and_one_who_speaks_something_else(
    ours: TestFleet, coordinator: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = ours.member("gate-7").device_id
    monkeypatch.setattr(reach, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(reach, "TLS_SECONDS", 0.3)

    async def outcome(address: str) -> str:
        return (await attempt(address, device, coordinator, time.time())).outcome

    with socket.socket() as silent, socket.socket() as free:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        free.bind(("127.0.0.1", 0))
        assert await outcome(f"127.0.0.1:{silent.getsockname()[1]}") == "hangs"
        assert await outcome(f"127.0.0.1:{free.getsockname()[1]}") == "refused"
        port = free.getsockname()[1]
    with black_hole("127.0.0.1", port):
        assert await outcome(f"127.0.0.1:{port}") == "silent"

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ready\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        assert await outcome(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") == "no tls"
    assert await outcome("no.such.host.invalid:7420") == "unresolved"
    assert await outcome("no address") == "unresolved"


async def test_a_board_that_waits_is_known_by_its_key(ours: TestFleet, coordinator: Credentials, tmp_path: Path) -> None:
    async with Enrollable(tmp_path / "board", "gate-7", "a board", "127.0.0.1:0", interfaces=("127.0.0.1",)) as board:
        found = await attempt(board.address, board.board, coordinator, time.time())
        other = await attempt(board.address, ours.member("gate-9").device_id, coordinator, time.time())
    assert (found.outcome, other.outcome) == ("waits to join", "another device")


def test_what_is_no_certificate(ours: TestFleet) -> None:
    device = ours.member("gate-7")
    assert judged(b"", credentials_of(device).authority, device.device_id, 0.0)[0] == "no tls"
