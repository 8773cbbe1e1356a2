"""What agents and coordinators rely on in a network, whichever it is: gRPC over TLS, or memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from protos.errors import Busy, Denied, FleetError, InvalidInput, NotFound, TimedOut, Unavailable
from protos.ids import DeviceId, digest_of, member_id
from protos.net import transport
from protos.net.memory import MemoryNetwork
from protos.net.transport import CHUNK_BYTES, MESSAGE_BYTES, Credentials, Methods, Network, Peer
from protos.net.verdict import Verdict
from protos.rpc_errors import answered, remote
from protos.v1 import device_pb2 as pb
from protos.v1 import device_pb2_grpc, pipeline_pb2, pipeline_pb2_grpc, telemetry_pb2
from tests.support.members import TestFleet, credentials_of
from tests.support.waiting import wait_until

ME, OTHER = DeviceId("a" * 16), DeviceId("b" * 16)


@pytest.fixture(params=["grpc", "memory"])
def network(request: pytest.FixtureRequest) -> Network:
    return transport if request.param == "grpc" else MemoryNetwork()


@dataclass
class Servicer(device_pb2_grpc.DeviceServicer, pipeline_pb2_grpc.PipelineServicer):
    """A method of each kind."""

    name: str = "me"
    running: int = 0
    ended: list[str] = field(default_factory=list)

    def register(self, server: grpc.aio.Server) -> None:
        device_pb2_grpc.add_DeviceServicer_to_server(self, server)
        pipeline_pb2_grpc.add_PipelineServicer_to_server(self, server)

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DeviceDescription:  # noqa: N802
        return pb.DeviceDescription(name=self.name)

    async def StatBlobs(self, request: pb.StatBlobsRequest, context: Any) -> pb.StatBlobsReply:  # noqa: N802
        return pb.StatBlobsReply(blobs=[pb.BlobStat(digest=digest) for digest in request.digests])

    async def LoadStage(self, request: pb.LoadStageRequest, context: Any) -> pb.LoadStageReply:  # noqa: N802
        async with answered(context):
            raise Busy("ünder load", advice="wait – a little", retry_after_seconds=2.5)

    async def UnloadStage(self, request: pb.UnloadStageRequest, context: Any) -> pb.UnloadStageReply:  # noqa: N802
        self.running += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1
            self.ended.append("UnloadStage")
        raise AssertionError

    async def PutBlob(self, request_iterator: AsyncIterator[pb.PutBlobRequest], context: Any) -> pb.PutBlobReply:  # noqa: N802
        async with answered(context):
            received = 0
            async for message in request_iterator:
                if message.WhichOneof("kind") == "header":
                    raise InvalidInput("no headers here")
                received += len(message.chunk)
            return pb.PutBlobReply(received_bytes=received)

    async def WatchTelemetry(self, request: pb.WatchTelemetryRequest, context: Any) -> AsyncIterator[telemetry_pb2.TelemetrySample]:  # noqa: N802
        async with answered(context):
            try:
                for index in range(50):
                    yield telemetry_pb2.TelemetrySample(index=index)
                if request.interval_seconds < 0:
                    raise NotFound("that was all")
                if request.interval_seconds:
                    await asyncio.Event().wait()
            finally:
                self.ended.append("WatchTelemetry")

    # In grpc.aio's reader/writer form, which its type stubs do not know for servicers.
    async def Flow(self, request_iterator: object, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        while isinstance(message := await context.read(), pipeline_pb2.FlowMessage):
            await context.write(pipeline_pb2.FlowReply(credit=message.open.to_stage + 1))
        self.ended.append("Flow")

    async def Mirror(self, request_iterator: object, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        raise NotImplementedError


@asynccontextmanager
async def served(network: Network, credentials: Credentials | None = None, device: DeviceId = ME) -> AsyncIterator[tuple[Servicer, str]]:
    servicer = Servicer()
    server, port = await network.serve("127.0.0.1:0", device, credentials, servicer.register)
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def dialled(
    network: Network, address: str, device: DeviceId = ME, credentials: Credentials | None = None, gateway: DeviceId | None = None
) -> AsyncIterator[Peer]:
    peer = network.dial(address, device, credentials, gateway)
    try:
        yield peer
    finally:
        await peer.close()


@asynccontextmanager
async def connected(network: Network) -> AsyncIterator[tuple[Servicer, Peer]]:
    async with served(network) as (servicer, address), dialled(network, address) as peer:
        yield servicer, peer


async def describe(peer: Peer) -> str:
    with remote("it"):
        return (await peer.device_stub.Describe(pb.DescribeRequest(), metadata=peer.metadata, timeout=10)).name


async def test_what_is_large_may_go_another_way_to_the_same_end(network: Network) -> None:
    async with connected(network) as (_, peer):
        with remote("it"):
            reply = await peer.bulk_stub.Describe(pb.DescribeRequest(), metadata=peer.metadata, timeout=10)
        assert reply.name == await describe(peer) == "me"
        await peer.close()
        with pytest.raises((grpc.aio.UsageError, grpc.aio.AioRpcError)):
            await peer.bulk_stub.Describe(pb.DescribeRequest(), metadata=peer.metadata, timeout=10)


async def test_one_message_each_way(network: Network) -> None:
    async with connected(network) as (_, peer):
        assert await describe(peer) == "me"
        assert await asyncio.gather(*(describe(peer) for _ in range(20))) == ["me"] * 20


async def test_a_stream_of_answers_in_order_to_its_end(network: Network) -> None:
    async with connected(network) as (servicer, peer):
        call = peer.device_stub.WatchTelemetry(pb.WatchTelemetryRequest(), metadata=peer.metadata)
        assert [sample.index async for sample in call] == list(range(50))
        await wait_until(lambda: servicer.ended == ["WatchTelemetry"])


async def test_an_error_after_answers_comes_after_them(network: Network) -> None:
    async with connected(network) as (_, peer):
        call = peer.device_stub.WatchTelemetry(pb.WatchTelemetryRequest(interval_seconds=-1), metadata=peer.metadata)
        heard: list[int] = []

        async def listen() -> None:
            with remote("it"):
                async for sample in call:
                    heard.append(sample.index)

        with pytest.raises(NotFound, match="it: that was all"):
            await listen()
        assert heard == list(range(50))


async def test_a_stream_of_requests_by_writes_and_by_an_iterator(network: Network) -> None:
    async with connected(network) as (_, peer):
        call = peer.device_stub.PutBlob(metadata=peer.metadata)
        for _ in range(40):
            await call.write(pb.PutBlobRequest(chunk=bytes(CHUNK_BYTES)))
        await call.done_writing()
        assert (await call).received_bytes == 40 * CHUNK_BYTES
        given = iter([pb.PutBlobRequest(chunk=b"12"), pb.PutBlobRequest(chunk=b"345")])
        assert (await peer.device_stub.PutBlob(given, metadata=peer.metadata)).received_bytes == 5


async def test_who_answers_before_the_end_is_heard(network: Network) -> None:
    async with connected(network) as (_, peer):
        call = peer.device_stub.PutBlob(metadata=peer.metadata)
        verdict = Verdict(call)
        await call.write(pb.PutBlobRequest(header=pb.PutBlobHeader(digest=digest_of(b""))))

        async def write_on() -> None:
            while True:
                await call.write(pb.PutBlobRequest(chunk=b"x"))
                await asyncio.sleep(0)

        async def answer() -> None:
            with remote("it"):
                try:
                    await call
                except grpc.aio.AioRpcError as error:
                    raise verdict.on(error) from None

        with pytest.raises((asyncio.InvalidStateError, grpc.aio.AioRpcError)):
            await asyncio.wait_for(write_on(), 10)
        with pytest.raises(InvalidInput, match="no headers here"):
            await answer()


async def test_both_sides_talk_in_turn(network: Network) -> None:
    async with connected(network) as (servicer, peer):
        call = peer.pipeline_stub.Flow(metadata=peer.metadata)
        for stage in range(30):
            await call.write(pipeline_pb2.FlowMessage(open=pipeline_pb2.FlowOpen(to_stage=stage)))
            assert await call.read() == pipeline_pb2.FlowReply(credit=stage + 1)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        await wait_until(lambda: servicer.ended == ["Flow"])


async def test_errors_of_ours_arrive_whole(network: Network) -> None:
    async with connected(network) as (_, peer):
        with pytest.raises(Busy, match="it: ünder load") as caught, remote("it"):
            await peer.device_stub.LoadStage(pb.LoadStageRequest(), metadata=peer.metadata)
        assert (caught.value.advice, caught.value.retry_after_seconds) == ("wait – a little", 2.5)


async def test_a_deadline_ends_both_sides(network: Network) -> None:
    async with connected(network) as (servicer, peer):
        with pytest.raises(TimedOut), remote("it"):
            await peer.device_stub.UnloadStage(pb.UnloadStageRequest(), metadata=peer.metadata, timeout=0.1)
        await wait_until(lambda: servicer.ended == ["UnloadStage"])


async def test_who_stops_listening_ends_the_servicer(network: Network) -> None:
    async with connected(network) as (servicer, peer):
        call = peer.device_stub.WatchTelemetry(pb.WatchTelemetryRequest(interval_seconds=1), metadata=peer.metadata)
        assert await call.read() == telemetry_pb2.TelemetrySample(index=0)
        call.cancel()
        assert call.cancelled()
        await wait_until(lambda: servicer.ended == ["WatchTelemetry"])


async def test_a_cancelled_task_ends_its_call(network: Network) -> None:
    async with connected(network) as (servicer, peer):

        async def ask() -> None:
            await peer.device_stub.UnloadStage(pb.UnloadStageRequest(), metadata=peer.metadata)

        task = asyncio.create_task(ask())
        await wait_until(lambda: servicer.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until(lambda: servicer.running == 0)


async def test_closing_the_channel_ends_its_calls(network: Network) -> None:
    async with connected(network) as (servicer, peer):

        async def ask() -> None:
            with remote("it"):
                await peer.device_stub.UnloadStage(pb.UnloadStageRequest(), metadata=peer.metadata)

        task = asyncio.create_task(ask())
        await wait_until(lambda: servicer.running == 1)
        await peer.close()
        with pytest.raises(Unavailable, match="connection was closed"):
            await task
        await wait_until(lambda: servicer.running == 0)
        with pytest.raises(Unavailable, match="connection was closed"):
            await describe(peer)


async def test_a_server_that_stops_ends_its_calls_and_is_gone(network: Network) -> None:
    async with served(network) as (servicer, address), dialled(network, address) as peer:

        async def ask() -> None:
            with remote("it"):
                await peer.device_stub.UnloadStage(pb.UnloadStageRequest(), metadata=peer.metadata)

        task = asyncio.create_task(ask())
        await wait_until(lambda: servicer.running == 1)
        server, port = await network.serve("127.0.0.1:0", ME, None, servicer.register)
        await server.stop(None)
        async with dialled(network, f"127.0.0.1:{port}") as gone:
            with pytest.raises(Unavailable):
                await describe(gone)
    with pytest.raises(Unavailable):
        await task
    await wait_until(lambda: servicer.running == 0)


async def test_a_port_in_use_is_an_error(network: Network) -> None:
    async with served(network) as (servicer, address):
        with pytest.raises(InvalidInput, match=f"^port {address.rpartition(':')[2]} is in use$"):
            await network.serve(address, ME, None, servicer.register)


async def test_a_message_beyond_the_limit_is_refused(network: Network) -> None:
    async with connected(network) as (_, peer):
        fits = pb.StatBlobsRequest(digests=["x" * (MESSAGE_BYTES - 100)])
        assert len((await peer.device_stub.StatBlobs(fits, metadata=peer.metadata)).blobs) == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await peer.device_stub.StatBlobs(pb.StatBlobsRequest(digests=["x" * MESSAGE_BYTES]), metadata=peer.metadata)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_call_for_another_device_is_refused(network: Network) -> None:
    async with served(network) as (_, address), dialled(network, address, OTHER) as peer:
        with pytest.raises(NotFound, match=f"this is device {ME}, the call is for {OTHER}"):
            await describe(peer)
        call = peer.pipeline_stub.Flow(metadata=())
        with pytest.raises(NotFound, match="the call is for nobody"), remote("it"):
            await call.read()


async def test_only_the_fleet_and_only_who_was_meant(network: Network, tmp_path: Path) -> None:
    ours, theirs = TestFleet.open(tmp_path / "ours"), TestFleet.open(tmp_path / "theirs")
    device, coordinator = ours.member("dev"), ours.member("coordinator", "coordinator")
    stranger = theirs.member("coordinator", "coordinator")
    async with served(network, device.credentials, device.device_id) as (_, address):
        for wanted, credentials, works in (
            (device.device_id, coordinator.credentials, True),
            (coordinator.device_id, coordinator.credentials, False),
            (device.device_id, stranger.credentials, False),
            (device.device_id, None, False),
        ):
            async with dialled(network, address, wanted, credentials) as peer:
                if works:
                    assert await describe(peer) == "me"
                else:
                    with pytest.raises(FleetError):
                        await describe(peer)


async def test_a_role_opens_what_it_may_call(network: Network, tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    device = fleet.member("dev")
    async with served(network, device.credentials, device.device_id) as (servicer, address):
        async with dialled(network, address, device.device_id, fleet.member("other").credentials) as peer:
            with pytest.raises(Denied, match="Describe is for a coordinator; the caller is a device"):
                await describe(peer)
        async with dialled(network, address, device.device_id, fleet.member("me", "coordinator").credentials) as peer:
            with pytest.raises(Denied, match="Flow is for a device or gateway; the caller is a coordinator"), remote("it"):
                await peer.pipeline_stub.Flow(metadata=peer.metadata).read()
        async with dialled(network, address, device.device_id, fleet.member("site", "gateway").credentials) as peer:
            call = peer.pipeline_stub.Flow(metadata=peer.metadata)
            await call.write(pipeline_pb2.FlowMessage())
            assert await call.read() == pipeline_pb2.FlowReply(credit=1)
            call.cancel()
        await wait_until(lambda: servicer.running == 0)


async def test_a_gateway_answers_for_those_behind_it_and_for_no_other(network: Network, tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    gateway, me = fleet.member("site", "gateway"), credentials_of(fleet.member("me", "coordinator"))
    one, two = member_id(gateway.device_id, "1"), member_id(gateway.device_id, "2")
    behind = {one: Methods(Servicer("one").register), two: Methods(Servicer("two").register)}
    server, port = await network.serve("127.0.0.1:0", gateway.device_id, gateway.credentials, lambda _server: None, behind)
    address = f"127.0.0.1:{port}"
    try:
        async with dialled(network, address, gateway.device_id, me, gateway.device_id) as peer:
            assert [await describe(peer.to(device)) for device in (one, two)] == ["one", "two"]
            call = peer.to(two).device_stub.WatchTelemetry(pb.WatchTelemetryRequest(), metadata=peer.to(two).metadata)
            assert len([sample async for sample in call]) == 50
            with pytest.raises(NotFound, match=f"this is gateway {gateway.device_id}, the call is for {OTHER}"):
                await describe(peer.to(OTHER))
            del behind[two]
            with pytest.raises(NotFound):
                await describe(peer.to(two))
        # A gateway's certificate is no device's, not even for its own id, and a device's is no gateway's.
        async with dialled(network, address, gateway.device_id, me) as peer:
            with pytest.raises(FleetError):
                await describe(peer)
        # Its devices are as closed to other members as any.
        async with dialled(network, address, one, fleet.member("dev").credentials, gateway.device_id) as peer:
            with pytest.raises(Denied):
                await describe(peer)
    finally:
        await server.stop(None)
    device = fleet.member("dev")
    async with (
        served(network, device.credentials, device.device_id) as (_, plain),
        dialled(network, plain, device.device_id, me, device.device_id) as peer,
    ):
        with pytest.raises(FleetError):
            await describe(peer)
