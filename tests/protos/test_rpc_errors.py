"""Errors: every class survives the wire, and each hop leaves its name."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from protos.errors import (
    LEAVES,
    Busy,
    Conflict,
    Corrupt,
    Denied,
    FleetError,
    Internal,
    PermanentError,
    TemporaryError,
    TimedOut,
    Unavailable,
    by_name,
)
from protos.ids import DeviceId, digest_of
from protos.net.transport import Peer, dial, serve
from protos.route import Hop
from protos.rpc_errors import (
    CODE_KEY,
    DIGEST_KEY,
    RETRY_AFTER_KEY,
    ROUTE_KEY,
    STATUS,
    answered,
    as_fleet_error,
    from_failure,
    from_rpc,
    remote,
    to_failure,
)
from protos.v1 import device_pb2, device_pb2_grpc, pipeline_pb2

DEVICE = DeviceId("a" * 16)


class Answering(device_pb2_grpc.DeviceServicer):
    """Describe does what it is told."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    async def Describe(  # noqa: N802
        self,
        request: device_pb2.DescribeRequest,
        context: grpc.aio.ServicerContext[device_pb2.DescribeRequest, device_pb2.DeviceDescription],
    ) -> device_pb2.DeviceDescription:
        async with answered(context):
            self._act()
        return device_pb2.DeviceDescription(name="fine")


@asynccontextmanager
async def device(act: Callable[[], None]) -> AsyncIterator[Peer]:
    server, port = await serve(
        "127.0.0.1:0", DEVICE, None, lambda server: device_pb2_grpc.add_DeviceServicer_to_server(Answering(act), server)
    )
    peer = dial(f"127.0.0.1:{port}", DEVICE, None)
    try:
        yield peer
    finally:
        await peer.close()
        await server.stop(None)


def failing(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


async def describe(peer: Peer, timeout: float | None = None) -> device_pb2.DeviceDescription:
    return await peer.device_stub.Describe(device_pb2.DescribeRequest(), metadata=peer.metadata, timeout=timeout)


@pytest.mark.parametrize("leaf", LEAVES)
async def test_every_leaf_survives_the_wire(leaf: type[FleetError]) -> None:
    async with device(failing(leaf("layers.3: no good", advice="say “please”", retry_after_seconds=2.5))) as peer:
        with pytest.raises(FleetError) as caught, remote("dev-1"):
            await describe(peer)
    assert type(caught.value) is leaf
    assert caught.value.detail == str(caught.value) == "dev-1: layers.3: no good"
    assert (caught.value.cause, caught.value.route, caught.value.digest) == ("layers.3: no good", (Hop("dev-1"),), None)
    assert caught.value.advice == "say “please”"
    assert caught.value.retry_after_seconds == 2.5


async def test_nobody_there_is_said_in_a_few_words() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        peer = dial(f"127.0.0.1:{free.getsockname()[1]}", DEVICE, None)
    with pytest.raises(Unavailable, match=r"^dev-1: connection refused \(nobody listens there\)$"), remote("dev-1"):
        await describe(peer)
    await peer.close()


async def test_the_digest_of_what_is_damaged_survives_the_wire() -> None:
    damaged = digest_of(b"a blob")
    async with device(failing(Corrupt("it changed", digest=damaged))) as peer:
        with pytest.raises(Corrupt) as caught, remote("dev-1"):
            await describe(peer)
    assert caught.value.digest == damaged


async def test_the_message_is_the_route() -> None:
    async with device(failing(Busy("full"))) as far:

        async def relay() -> None:
            with remote("dev-2"):
                await describe(far)

        async def route() -> None:
            try:
                await relay()
            except FleetError as error:
                raise error.at("dev-1") from error

        with pytest.raises(Busy, match=r"^dev-1: dev-2: full$"):
            await route()


async def test_a_defect_is_logged_there_and_brings_no_traceback_here(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "protos.rpc_errors"):
        async with device(failing(ZeroDivisionError("by zero"))) as peer:
            with pytest.raises(Internal) as caught, remote("dev-1"):
                await describe(peer)
    assert caught.value.detail == "dev-1: ZeroDivisionError: by zero"
    assert "Traceback" in caplog.text


async def test_answered_lets_success_pass() -> None:
    async with device(lambda: None) as peer:
        with remote("dev-1"):
            assert (await describe(peer)).name == "fine"


async def test_a_service_that_is_not_there_is_a_conflict() -> None:
    server, port = await serve("127.0.0.1:0", DEVICE, None, lambda _server: None)
    peer = dial(f"127.0.0.1:{port}", DEVICE, None)
    with pytest.raises(Conflict, match="dev-1"), remote("dev-1"):
        await describe(peer)
    await peer.close()
    await server.stop(None)


async def test_nobody_there_is_unavailable() -> None:
    async with device(lambda: None) as peer:
        address = peer.address
    peer = dial(address, DEVICE, None)
    with pytest.raises(Unavailable, match="dev-1"), remote("dev-1"):
        await describe(peer)
    await peer.close()


async def test_a_deadline_is_timed_out() -> None:
    held = asyncio.Event()

    class Slow(device_pb2_grpc.DeviceServicer):
        async def Describe(self, request: object, context: object) -> device_pb2.DeviceDescription:  # noqa: N802
            await held.wait()
            return device_pb2.DeviceDescription()

    server, port = await serve("127.0.0.1:0", DEVICE, None, lambda server: device_pb2_grpc.add_DeviceServicer_to_server(Slow(), server))
    peer = dial(f"127.0.0.1:{port}", DEVICE, None)
    with pytest.raises(TimedOut), remote("dev-1"):
        await describe(peer, timeout=0.05)
    await peer.close()
    await server.stop(None)


async def test_a_call_on_a_closed_channel_is_unavailable() -> None:
    async with device(lambda: None) as peer:
        await peer.close()
        with pytest.raises(Unavailable, match="dev-1: the connection was closed"), remote("dev-1"):
            await describe(peer)


GRPC_SAYS = [
    (grpc.StatusCode.CANCELLED, "Locally cancelled by application!", Unavailable, "the call was broken off"),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", TimedOut, "no answer in time"),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "Stream removed (Deadline Exceeded)", TimedOut, "no answer in time"),
    (grpc.StatusCode.UNAVAILABLE, "Cancelling all calls", Unavailable, "nobody of glmfleet answers there, or it is stopping"),
    (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: x", Unavailable, "nobody of glmfleet answers there"),
    (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", Conflict, "another version of glmfleet runs there"),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER: Sent message larger than max (5242885 vs. 4194304)", Busy, "the message is too long"),
    (grpc.StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>: boom", Internal, "it failed without saying why"),
    (grpc.StatusCode.INTERNAL, "Exception deserializing response!", Internal, "the call failed inside gRPC"),
    (grpc.StatusCode.ABORTED, "", Internal, "the call failed inside gRPC"),
]


@pytest.mark.parametrize(("status", "words", "kind", "ours"), GRPC_SAYS)
def test_words_of_grpc_reach_nobody(status: grpc.StatusCode, words: str, kind: type[FleetError], ours: str) -> None:
    error = from_rpc(grpc.aio.AioRpcError(status, grpc.aio.Metadata(), grpc.aio.Metadata(), words))
    assert type(error) is kind
    assert ours in error.detail
    assert error.link_failure is None
    assert not words or words not in error.detail


def test_a_call_s_failure_that_nobody_named_is_told_in_our_words() -> None:
    failed = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata(), "Locally cancelled by application!")
    assert str(as_fleet_error(failed)) == "the call was broken off"
    assert str(as_fleet_error(ZeroDivisionError("by zero\nand more"))) == "ZeroDivisionError: by zero"
    named = Busy("full")
    assert as_fleet_error(named) is named


async def test_a_relay_s_call_that_nobody_named_is_told_in_our_words() -> None:
    failed = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata(), "Locally cancelled by application!")
    async with device(failing(failed)) as peer:
        with pytest.raises(Unavailable, match=r"^dev-1: the call was broken off$"), remote("dev-1"):
            await describe(peer)


async def test_words_of_grpc_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "protos.rpc_errors"):
        from_rpc(grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata(), "Cancelling all calls"))
    assert "CANCELLED: Cancelling all calls" in caplog.text


async def test_a_device_that_stops_under_a_call_is_told_in_our_words() -> None:
    held = asyncio.Event()

    class Slow(device_pb2_grpc.DeviceServicer):
        async def Describe(self, request: object, context: object) -> device_pb2.DeviceDescription:  # noqa: N802
            held.set()
            await asyncio.Event().wait()
            return device_pb2.DeviceDescription()

    server, port = await serve("127.0.0.1:0", DEVICE, None, lambda server: device_pb2_grpc.add_DeviceServicer_to_server(Slow(), server))
    peer = dial(f"127.0.0.1:{port}", DEVICE, None)

    async def called() -> None:
        with remote("dev-1"):
            await describe(peer)

    call = asyncio.create_task(called())
    await held.wait()
    await server.stop(None)
    with pytest.raises(Unavailable, match=r"^dev-1: (nobody of glmfleet answers there|the connection broke)"):
        await call
    await peer.close()


def test_retry_policy_reads_the_class() -> None:
    for leaf in LEAVES:
        assert issubclass(leaf, TemporaryError) != issubclass(leaf, PermanentError)
    assert set(STATUS) == set(LEAVES)
    assert len(set(STATUS.values())) == len(LEAVES), "two classes would be one on the wire"


async def test_a_ring_s_route_comes_as_hops_and_is_shown_by_names() -> None:
    async with device(failing(Unavailable("it ended").at(Hop("id-3", 2)))) as peer:
        with pytest.raises(Unavailable) as caught, remote(Hop("id-2", 1)):
            await describe(peer)
    assert caught.value.route == (Hop("id-2", 1), Hop("id-3", 2))
    assert caught.value.cause == "it ended"
    assert caught.value.named({"id-3": "lamp"}).detail == "stage 1 on id-2: stage 2 on lamp: it ended"


def of_status(detail: str, *trailing: tuple[str, str | bytes]) -> FleetError:
    metadata = grpc.aio.Metadata((CODE_KEY, "Unavailable"), *trailing)
    return from_rpc(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), metadata, detail))


def test_an_error_of_the_release_before_has_its_route_in_the_text() -> None:
    error = of_status("stage 1 on id-2: it ended").at("head")
    assert (error.detail, error.route) == ("head: stage 1 on id-2: it ended", (Hop("head"),))
    failure = pipeline_pb2.Failure(code="Busy", detail="stage 1 on id-2: full", retry_after_seconds=2.0)
    error = from_failure(failure)
    assert (type(error), error.detail, error.route, error.retry_after_seconds) == (Busy, "stage 1 on id-2: full", (), 2.0)


def test_the_release_before_reads_the_route_in_the_text() -> None:
    assert to_failure(Unavailable("it ended").at(Hop("id-2", 1))).detail == "stage 1 on id-2: it ended"


def test_a_failure_comes_back_as_it_was() -> None:
    error = Busy("full: 3 of 3", retry_after_seconds=2.0).at(Hop("id-3", 2)).at(Hop("id-2", 0)).at("id-1")
    back = from_failure(pipeline_pb2.Failure.FromString(to_failure(error).SerializeToString()))
    assert (type(back), back.cause, back.route, back.retry_after_seconds) == (Busy, "full: 3 of 3", error.route, 2.0)


@pytest.mark.parametrize("route", [b"", b"\xff\xff", b"\x0a\xff"])
def test_a_route_that_is_none_leaves_the_text(route: bytes) -> None:
    error = of_status("it ended", (ROUTE_KEY, route), (DIGEST_KEY, "../../etc/passwd"))
    assert (error.detail, error.route, error.digest) == ("it ended", (), None)


def test_what_comes_of_a_route_is_bounded() -> None:
    hops = [pipeline_pb2.Route.Hop(device="i" * 1000, stage=stage) for stage in range(1000)]
    route = pipeline_pb2.Route(hops=hops, text_length=4_000_000_000)
    error = from_failure(pipeline_pb2.Failure(code="Busy", detail="full", route=route))
    assert (error.cause, len(error.route)) == ("", 16)
    assert len(error.detail) < 1000


async def test_of_a_long_route_the_end_arrives_with_the_cause() -> None:
    error: FleetError = Unavailable("it ended")
    for stage in range(200):
        error = error.at(Hop("i" * 1000, stage))
    async with device(failing(error)) as peer:
        with pytest.raises(Unavailable) as caught, remote("head"):
            await describe(peer)
    assert caught.value.detail.startswith("head: stage 15 on iii")
    assert caught.value.detail.endswith("stage 0 on " + "i" * 32 + ": it ended")
    assert len(caught.value.route) == 17


def test_by_name() -> None:
    assert type(by_name("Denied", "no")) is Denied
    assert type(by_name("NoSuchClass", "no")) is Internal
    assert by_name("Busy", "no", retry_after_seconds=3).retry_after_seconds == 3


@pytest.mark.parametrize(("said", "taken"), [("1e308", 60.0), ("inf", 60.0), ("nan", 0.0), ("-5", 0.0), ("soon", 0.0), ("", 0.0)])
async def test_an_absurd_wait_is_not_obeyed(said: str, taken: float) -> None:
    trailing = grpc.aio.Metadata((CODE_KEY, "Busy"), (RETRY_AFTER_KEY, said))
    error = from_rpc(grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), trailing, "full"))
    assert (type(error), error.retry_after_seconds) == (Busy, taken)
    assert by_name("Busy", "full", retry_after_seconds=float("nan")).retry_after_seconds == 0.0


async def test_an_error_as_long_as_a_book_still_arrives() -> None:
    async with device(failing(Conflict("x" * 100_000))) as peer:
        with pytest.raises(Conflict) as caught, remote("it"):
            await describe(peer)
    assert 500 < len(caught.value.detail) < 2000
