"""Dialling and serving: who is let in, and who is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from protos.errors import Denied, InvalidInput, NotFound, Unavailable
from protos.ids import DeviceId
from protos.net.transport import DEVICE_KEY, MESSAGE_BYTES, Credentials, Peer, dial, is_loopback, serve, split_address
from protos.rpc_errors import remote
from protos.v1 import device_pb2, device_pb2_grpc
from tests.support.members import TestFleet, credentials_of


class Device(device_pb2_grpc.DeviceServicer):
    def __init__(self, device: DeviceId) -> None:
        self._device = device

    async def Describe(  # noqa: N802
        self,
        request: device_pb2.DescribeRequest,
        context: grpc.aio.ServicerContext[device_pb2.DescribeRequest, device_pb2.DeviceDescription],
    ) -> device_pb2.DeviceDescription:
        return device_pb2.DeviceDescription(device_id=self._device)

    async def StatBlobs(  # noqa: N802
        self,
        request: device_pb2.StatBlobsRequest,
        context: grpc.aio.ServicerContext[device_pb2.StatBlobsRequest, device_pb2.StatBlobsReply],
    ) -> device_pb2.StatBlobsReply:
        return device_pb2.StatBlobsReply(blobs=[device_pb2.BlobStat(digest=digest) for digest in request.digests])


@asynccontextmanager
async def running(device: DeviceId, credentials: Credentials | None) -> AsyncIterator[str]:
    server, port = await serve(
        "127.0.0.1:0", device, credentials, lambda server: device_pb2_grpc.add_DeviceServicer_to_server(Device(device), server)
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def dialled(address: str, device: DeviceId, credentials: Credentials | None) -> AsyncIterator[Peer]:
    peer = dial(address, device, credentials)
    try:
        yield peer
    finally:
        await peer.close()


async def describe(peer: Peer, metadata: tuple[tuple[str, str], ...] | None = None) -> str:
    with remote("it"):
        reply = await peer.device_stub.Describe(
            device_pb2.DescribeRequest(), metadata=peer.metadata if metadata is None else metadata, timeout=10
        )
    return reply.device_id


@pytest.fixture
def fleet(tmp_path: Path) -> TestFleet:
    return TestFleet.open(tmp_path / "one")


@pytest.fixture
def stranger(tmp_path: Path) -> TestFleet:
    return TestFleet.open(tmp_path / "other")


async def test_members_of_one_fleet_talk(fleet: TestFleet) -> None:
    device, me = fleet.member("dev-1"), fleet.member("me", "coordinator")
    async with (
        running(device.device_id, device.credentials) as address,
        dialled(address, device.device_id, me.credentials) as peer,
    ):
        assert await describe(peer) == device.device_id


async def test_another_device_of_the_fleet_at_the_address_is_refused(fleet: TestFleet) -> None:
    device, other = fleet.member("dev-1"), fleet.member("dev-2")
    async with (
        running(device.device_id, device.credentials) as address,
        dialled(address, other.device_id, other.credentials) as peer,
    ):
        with pytest.raises(Unavailable):
            await describe(peer)


async def test_a_device_of_another_fleet_is_refused(fleet: TestFleet, stranger: TestFleet) -> None:
    device, me = stranger.member("dev-1"), fleet.member("me", "coordinator")
    async with (
        running(device.device_id, device.credentials) as address,
        dialled(address, device.device_id, me.credentials) as peer,
    ):
        with pytest.raises(Unavailable):
            await describe(peer)


async def test_a_caller_of_another_fleet_is_refused(fleet: TestFleet, stranger: TestFleet) -> None:
    """It even knows our authority's certificate, so that only the device's own check stands in its way."""
    device, intruder = fleet.member("dev-1"), credentials_of(stranger.member("me", "coordinator"))
    forged = Credentials(intruder.certificate, intruder.private_key, fleet.authority.certificate_pem, fleet.fleet_id)
    async with (
        running(device.device_id, device.credentials) as address,
        dialled(address, device.device_id, forged) as peer,
    ):
        with pytest.raises(Unavailable):
            await describe(peer)


async def test_a_caller_without_certificate_is_refused(fleet: TestFleet) -> None:
    device = fleet.member("dev-1")
    async with running(device.device_id, device.credentials) as address:
        bare = grpc.ssl_channel_credentials(fleet.authority.certificate_pem)
        options = [("grpc.ssl_target_name_override", f"{device.device_id}.glmfleet.internal")]
        async with grpc.aio.secure_channel(address, bare, options=options) as channel:
            with pytest.raises(Unavailable):
                await describe(Peer(device.device_id, address, channel))
        async with dialled(address, device.device_id, None) as peer:
            with pytest.raises(Unavailable):
                await describe(peer)


async def test_a_call_for_another_device_does_not_reach_this_one() -> None:
    this, other = DeviceId("a" * 16), DeviceId("b" * 16)
    async with running(this, None) as address, dialled(address, other, None) as peer:
        with pytest.raises(NotFound, match=f"this is device {this}, the call is for {other}"):
            await describe(peer)
        with pytest.raises(NotFound, match="the call is for nobody"):
            await describe(peer, metadata=())
        with pytest.raises(NotFound):
            await describe(peer, metadata=((DEVICE_KEY, this), (DEVICE_KEY, other)))
        assert await describe(peer, metadata=((DEVICE_KEY, this),)) == this


async def test_a_stream_for_another_device_is_refused_too() -> None:
    this, other = DeviceId("a" * 16), DeviceId("b" * 16)
    async with running(this, None) as address, dialled(address, other, None) as peer:
        call = peer.pipeline_stub.Flow(metadata=peer.metadata, timeout=10)
        with pytest.raises(NotFound, match="the call is for"), remote("it"):
            await call.read()


@pytest.mark.parametrize("address", ["192.0.2.1:7420", "example.org:7420", "[2001:db8::1]:7420", "0.0.0.0:7420"])
async def test_plaintext_is_for_loopback_only(address: str) -> None:
    with pytest.raises(Denied, match="plaintext is for loopback only"):
        dial(address, DeviceId("a" * 16), None)
    with pytest.raises(Denied, match="plaintext is for loopback only"):
        await serve(address, DeviceId("a" * 16), None, lambda _server: None)


async def test_a_port_in_use_is_an_error(fleet: TestFleet) -> None:
    device = fleet.member("dev-1")
    async with running(device.device_id, device.credentials) as address:
        for credentials in (device.credentials, None):
            with pytest.raises(InvalidInput, match=f"^port {address.rpartition(':')[2]} is in use$"):
                await serve(address, device.device_id, credentials, lambda _server: None)


async def test_nobody_there_is_unavailable(fleet: TestFleet) -> None:
    device = fleet.member("dev-1")
    async with running(device.device_id, device.credentials) as address:
        pass
    async with dialled(address, device.device_id, device.credentials) as peer:
        with pytest.raises(Unavailable):
            await describe(peer)


async def test_a_message_beyond_the_limit_is_refused() -> None:
    device = DeviceId("a" * 16)
    async with running(device, None) as address, dialled(address, device, None) as peer:
        fits = device_pb2.StatBlobsRequest(digests=["x" * (MESSAGE_BYTES - 100)])
        assert len((await peer.device_stub.StatBlobs(fits, metadata=peer.metadata)).blobs) == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await peer.device_stub.StatBlobs(device_pb2.StatBlobsRequest(digests=["x" * MESSAGE_BYTES]), metadata=peer.metadata)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_private_key_is_not_in_the_repr(fleet: TestFleet) -> None:
    assert "PRIVATE" not in repr(fleet.member("dev-1"))


@pytest.mark.parametrize(
    ("text", "host", "port"), [("localhost:1", "localhost", 1), ("10.0.0.1:65535", "10.0.0.1", 65535), ("[::1]:7420", "[::1]", 7420)]
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert split_address(text) == (host, port)


@pytest.mark.parametrize("text", ["", "host", "host:", ":7420", "host:0", "host:65536", "host:-1", "host:seven", "host:7420x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        split_address(text)
    assert "host:port" in caught.value.advice


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("[::1]", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("localhost.evil.org", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
