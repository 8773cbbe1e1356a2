"""What gRPC says of links that fail, as it says it: each case is a connection that fails so."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from fleet.trust.authority import MEMBER_LIFE, Authority
from protos.errors import FleetError, Unavailable
from protos.ids import DeviceId
from protos.link_failure import LinkFailure, link_failure
from protos.net.transport import Credentials, dial, serve
from protos.rpc_errors import from_rpc
from protos.v1 import device_pb2
from tests.support.members import TestFleet, credentials_of


@pytest.fixture
def fleet(tmp_path: Path) -> TestFleet:
    return TestFleet.open(tmp_path / "one")


@pytest.fixture
def coordinator(fleet: TestFleet) -> Credentials:
    return credentials_of(fleet.member("me", "coordinator"))


@contextlib.asynccontextmanager
async def listening(credentials: Credentials | None) -> AsyncIterator[str]:
    server, port = await serve("127.0.0.1:0", DeviceId("a" * 16), credentials, lambda _server: None)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def failure_of(address: str, device: DeviceId, credentials: Credentials | None) -> FleetError:
    peer = dial(address, device, credentials)
    try:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await peer.device_stub.Describe(device_pb2.DescribeRequest(), metadata=peer.metadata, timeout=10)
    finally:
        await peer.close()
    return from_rpc(caught.value)


def member_at(fleet: TestFleet, away: timedelta) -> Credentials:
    """Of a device whose certificate was made when the authority's clock was so far away from ours."""
    folder = fleet.folder / "then"
    Authority.open(fleet.folder / "authority", clock=lambda: datetime.now(UTC) + away).issue_folder(folder, "device", "then")
    certificate, key, authority = ((folder / name).read_bytes() for name in ("certificate.pem", "key.pem", "authority.pem"))
    return Credentials(certificate, key, authority, fleet.fleet_id)


async def test_nobody_listens(coordinator: Credentials) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = await failure_of(f"127.0.0.1:{free.getsockname()[1]}", DeviceId("a" * 16), coordinator)
    assert (type(error), error.link_failure) == (Unavailable, LinkFailure.REFUSED)


@pytest.mark.parametrize(
    ("address", "failure"),
    [
        ("255.255.255.255:1", LinkFailure.UNREACHABLE),
        ("[fe80::1]:1", LinkFailure.UNREACHABLE),  # link-local, and no zone
        ("[fe80::1%nosuch]:1", LinkFailure.UNRESOLVED),  # of an interface that has gone
    ],
)
async def test_nobody_can_be_reached_there(coordinator: Credentials, address: str, failure: LinkFailure) -> None:
    error = await failure_of(address, DeviceId("a" * 16), coordinator)
    assert (type(error), error.link_failure) == (Unavailable, failure)


async def test_another_member_of_the_fleet(fleet: TestFleet, coordinator: Credentials) -> None:
    async with listening(credentials_of(fleet.member("dev-1"))) as address:
        error = await failure_of(address, DeviceId("b" * 16), coordinator)
    assert error.link_failure is LinkFailure.ANOTHER_MEMBER


async def test_a_member_of_another_fleet(tmp_path: Path, coordinator: Credentials) -> None:
    stranger = TestFleet.open(tmp_path / "other").member("dev-1")
    async with listening(credentials_of(stranger)) as address:
        error = await failure_of(address, stranger.device_id, coordinator)
    assert error.link_failure is LinkFailure.ANOTHER_AUTHORITY


@pytest.mark.parametrize("away", [-MEMBER_LIFE - timedelta(days=1), timedelta(days=3)], ids=["expired", "not-yet"])
async def test_a_certificate_out_of_its_time(fleet: TestFleet, coordinator: Credentials, away: timedelta) -> None:
    async with listening(member_at(fleet, away)) as address:
        error = await failure_of(address, DeviceId("a" * 16), coordinator)
    assert error.link_failure is LinkFailure.NOT_VALID_NOW


async def test_who_speaks_no_tls(fleet: TestFleet, coordinator: Credentials) -> None:
    device = fleet.member("dev-1")
    async with listening(None) as address:
        error = await failure_of(address, device.device_id, coordinator)
    assert error.link_failure is LinkFailure.TLS


@pytest.mark.parametrize("ours_is_tls", [True, False])
async def test_who_hangs_up(fleet: TestFleet, coordinator: Credentials, ours_is_tls: bool) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        error = await failure_of(address, DeviceId("a" * 16), coordinator if ours_is_tls else None)
    assert error.link_failure is LinkFailure.BROKEN


async def test_who_asks_tls_for_plaintext(fleet: TestFleet) -> None:
    async with listening(credentials_of(fleet.member("dev-1"))) as address:
        error = await failure_of(address, DeviceId("a" * 16), None)
    assert error.link_failure is LinkFailure.BROKEN


async def test_the_words_are_plain(coordinator: Credentials) -> None:
    async with listening(None) as address:
        error = await failure_of(address, DeviceId("a" * 16), coordinator)
    assert error.detail == "TLS failed: what answers there does not speak it as we do"


def test_of_other_words_nothing_is_read() -> None:
    assert link_failure("Deadline Exceeded") is None
    assert link_failure("") is None


@pytest.mark.parametrize("words", ["the certificate has expired", "connection refused"])
def test_words_of_a_device_are_not_read_as_grpc_s(words: str) -> None:
    metadata = grpc.aio.Metadata(("glmfleet-error", "Unavailable"))
    error = from_rpc(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), metadata, words))
    assert (error.link_failure, error.detail) == (None, words)
