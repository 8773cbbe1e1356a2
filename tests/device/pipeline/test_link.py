"""The streams between stages: what they refuse, what ends them, and that credit bounds what is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest

from device.pipeline import link as link_module
from device.pipeline.link import Link
from device.stage_spec import StageSpec, parse_spec
from protos.errors import Conflict, FleetError, Unavailable
from protos.ids import DeviceId
from protos.net.transport import serve
from protos.v1 import device_pb2, pipeline_pb2_grpc
from protos.v1 import pipeline_pb2 as pb
from protos.versions import SPOKEN
from tests.support.checkpoints import TinyGlm
from tests.support.stage_specs import TinyStages
from tests.support.waiting import wait_until

SLOTS, CHUNK = 4, 8
ROW_BYTES = 72 * 4
HUGE = 2**32 - 1
Call = grpc.aio.StreamStreamCall


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> TinyStages:
    return TinyStages.make(tmp_path_factory.mktemp("model"), TinyGlm(layers=3))


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.cpu.copy_bandwidth", lambda: 1.0)


# A next stage of the test's own, for the link alone.


class Neighbour(pipeline_pb2_grpc.PipelineServicer):
    """Answers an opening with `replies`, then reads microbatches, and sends what is put in `more`."""

    def __init__(self, *replies: pb.FlowReply) -> None:
        self.replies = replies
        self.opening: pb.FlowOpen | None = None
        self.messages: list[pb.Microbatch] = []
        self.more: asyncio.Queue[pb.FlowReply | None] = asyncio.Queue()

    @property
    def steps(self) -> list[int]:
        return [message.step for message in self.messages]

    # In grpc.aio's reader/writer form, which its type stubs do not know for servicers.
    async def Flow(self, request_iterator: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[override]  # noqa: N802
        self.opening = (await context.read()).open
        for answer in self.replies:
            await context.write(answer)
        reader = asyncio.create_task(self._read(context))
        try:
            while reply := await self.more.get():
                await context.write(reply)
            await context.abort(grpc.StatusCode.DATA_LOSS, "no more of this")
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, context: grpc.aio.ServicerContext) -> None:
        while isinstance(message := await context.read(), pb.FlowMessage):
            self.messages.append(message.microbatch)


@asynccontextmanager
async def neighbouring(neighbour: Neighbour) -> AsyncIterator[device_pb2.Hop]:
    """Where `neighbour` serves."""

    def register(server: grpc.aio.Server) -> None:
        pipeline_pb2_grpc.add_PipelineServicer_to_server(neighbour, server)

    server, port = await serve("127.0.0.1:0", DeviceId("neighbour"), None, register)
    try:
        yield device_pb2.Hop(device_id="neighbour", address=f"127.0.0.1:{port}")
    finally:
        await server.stop(0)


def spec_of(stages: TinyStages, stage: int, following: device_pb2.Hop) -> StageSpec:
    """Stage `stage` of two, the other one on `following`."""
    request = stages.requests(2, slots=SLOTS, chunk=CHUNK)[stage]
    request.next.CopyFrom(following)
    return parse_spec(request)


@asynccontextmanager
async def linked_to(neighbour: Neighbour, stages: TinyStages) -> AsyncIterator[Link]:
    """A link, not yet connected, from stage 0 to `neighbour`."""
    async with neighbouring(neighbour) as hop:
        spec = spec_of(stages, 0, hop)
        assert spec.next
        yield Link(spec, spec.next, "ring", None, DeviceId("own"))


async def test_a_link_says_what_it_is_for_and_waits_for_credit(stages: TinyStages) -> None:
    neighbour = Neighbour(pb.FlowReply(accepted=True, credit=2))
    async with linked_to(neighbour, stages) as unconnected, unconnected as link:
        assert neighbour.opening == pb.FlowOpen(
            protocol_version=SPOKEN.newest,
            oldest_protocol_version=SPOKEN.oldest,
            pipeline_id="test-1",
            manifest_digest=stages.manifest.digest,
            epoch=1,
            to_stage=1,
            ring_id="ring",
            wire_dtype="float32",
            from_device="own",
        )
        message = pb.Microbatch(step=1, hidden=b"1234")
        assert await link.send(message) == pb.FlowMessage(microbatch=message).ByteSize()
        await link.send(pb.Microbatch(step=2))
        third = asyncio.create_task(link.send(pb.Microbatch(step=3)))
        await wait_until(lambda: neighbour.steps == [1, 2])
        assert not third.done()
        neighbour.more.put_nowait(pb.FlowReply(credit=1))
        await third
        await wait_until(lambda: neighbour.steps == [1, 2, 3])
        # The end is told to whoever waits for credit, and to whoever watches.
        fourth = asyncio.create_task(link.send(pb.Microbatch(step=4)))
        await asyncio.sleep(0)
        neighbour.more.put_nowait(None)
        for waiting in (fourth, asyncio.create_task(link.ended())):
            with pytest.raises(FleetError, match="stage 1 on neighbour: no more of this"):
                await waiting


async def test_who_does_not_accept_is_no_link(stages: TinyStages) -> None:
    async with linked_to(Neighbour(pb.FlowReply(accepted=False, credit=9)), stages) as link:
        with pytest.raises(Conflict, match="did not accept"):
            await link.__aenter__()


async def test_who_does_not_answer_is_unavailable(stages: TinyStages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "CONNECT_SECONDS", 0.05)
    async with linked_to(Neighbour(), stages) as link:
        with pytest.raises(Unavailable, match="does not answer"):
            await link.__aenter__()
    async with linked_to(Neighbour(), stages) as nobody:
        pass
    with pytest.raises(Unavailable):
        await nobody.__aenter__()


# One real stage, with the test as both of its neighbours.
