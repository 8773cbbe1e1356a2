"""The streams between stages: what they refuse, what ends them, and that credit bounds what is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from device.agent.identity import Identity
from device.pipeline import link as link_module
from device.pipeline.doubts import Doubts
from device.pipeline.link import Link
from device.stage_spec import NextHop, StageSpec, parse_spec
from protos.errors import Conflict, FleetError, Unavailable
from protos.ids import DeviceId
from protos.net import race as race_module
from protos.net.transport import serve
from protos.v1 import device_pb2, pipeline_pb2_grpc
from protos.v1 import pipeline_pb2 as pb
from protos.versions import SPOKEN
from tests.support.checkpoints import TinyGlm
from tests.support.members import TestFleet
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
        self.openings = 0
        self.messages: list[pb.Microbatch] = []
        self.parts: list[int] = []  # bytes of rows that came before their microbatch
        self.beats = 0
        self.more: asyncio.Queue[pb.FlowReply | None] = asyncio.Queue()

    @property
    def steps(self) -> list[int]:
        return [message.step for message in self.messages]

    # In grpc.aio's reader/writer form, which its type stubs do not know for servicers.
    async def Flow(self, request_iterator: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[override]  # noqa: N802
        self.opening = (await context.read()).open
        self.openings += 1
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
            match message.WhichOneof("kind"):
                case "microbatch":
                    self.messages.append(message.microbatch)
                case "hidden_part":
                    self.parts.append(len(message.hidden_part))
                case _:
                    self.beats += 1


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
        yield Link(spec, spec.next, "ring", None, DeviceId("own"), Doubts())


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
            beat_milliseconds=1000,
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


# A hop with several addresses.


@asynccontextmanager
async def proving(identity: Identity, neighbour: Neighbour) -> AsyncIterator[int]:
    """The port at which it serves with TLS, on every address of loopback."""

    def register(server: grpc.aio.Server) -> None:
        pipeline_pb2_grpc.add_PipelineServicer_to_server(neighbour, server)

    server, port = await serve("[::]:0", identity.device_id, identity.credentials, register)
    try:
        yield port
    finally:
        await server.stop(0)


async def test_of_a_hops_addresses_the_one_where_the_neighbour_proves_itself_is_taken(stages: TinyStages, tmp_path: Path) -> None:
    """Another device of the ring answers at the first, as where both have a bridge of the same address; nobody at the second."""
    fleet = TestFleet.open(tmp_path)
    own, other, third = (fleet.member(name) for name in ("own", "other", "third"))
    accepts = pb.FlowReply(accepted=True, credit=1)
    neighbour, another = Neighbour(accepts), Neighbour(accepts)
    async with proving(other, neighbour) as port, proving(third, another) as wrong:
        wrongs, right = [f"127.0.0.1:{wrong}", "127.0.0.1:9"], f"127.0.0.1:{port}"
        hop = device_pb2.Hop(device_id=other.device_id, address=wrongs[0], addresses=[*wrongs, right, f"127.0.0.2:{port}"])
        spec = spec_of(stages, 0, hop)
        assert spec.next
        async with Link(spec, spec.next, "ring", own.credentials, own.device_id, Doubts()) as link:
            assert link.address == right
            assert neighbour.openings == 1
            assert another.openings == 0
        nowhere = NextHop(other.device_id, tuple(wrongs))
        with pytest.raises(Unavailable) as caught:
            await Link(spec, nowhere, "ring", own.credentials, own.device_id, Doubts()).__aenter__()
        assert all(address in caught.value.detail for address in wrongs)
        assert caught.value.detail.startswith(f"stage 1 on {other.device_id}: ")


async def test_a_neighbour_with_two_ways_to_it_sees_one_stream(stages: TinyStages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second address is tried while the first has not answered yet: only the winner may open."""
    monkeypatch.setattr(race_module, "STAGGER_SECONDS", 0.0)
    fleet = TestFleet.open(tmp_path)
    own, other = fleet.member("own"), fleet.member("other")
    neighbour = Neighbour(pb.FlowReply(accepted=True, credit=1))
    async with proving(other, neighbour) as port:
        spec = spec_of(stages, 0, device_pb2.Hop(device_id=other.device_id, address="127.0.0.1:9"))
        hop = NextHop(other.device_id, tuple(f"127.0.0.{n}:{port}" for n in range(1, 9)))
        async with Link(spec, hop, "ring", own.credentials, own.device_id, Doubts()):
            await asyncio.sleep(0.05)
            assert neighbour.openings == 1


# One real stage, with the test as both of its neighbours.


async def test_a_neighbour_that_beats_and_falls_silent_is_gone(stages: TinyStages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its process answers pings: nothing comes, and nothing ends."""
    monkeypatch.setattr(link_module, "ASKERS_BEAT_SECONDS", 0.05)
    neighbour = Neighbour(pb.FlowReply(accepted=True, credit=1, beat_milliseconds=100))
    async with linked_to(neighbour, stages) as unconnected, unconnected as link:
        for _ in range(10):
            await asyncio.sleep(0.1)
            neighbour.more.put_nowait(pb.FlowReply())
        assert neighbour.beats > 3
        await link.send(pb.Microbatch(step=1, hidden=bytes(link_module.PART_BYTES + 5)))  # in parts: each is a sign of life
        waiting = asyncio.create_task(link.send(pb.Microbatch(step=2)))  # for credit
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match=r"^stage 1 on neighbour: it was silent for 0\.[789] s$"):
                await link.ended()
            with pytest.raises(Unavailable, match="silent"):
                await waiting
        assert (neighbour.parts, neighbour.steps) == ([link_module.PART_BYTES], [1])


async def test_a_neighbour_that_rests_is_judged_as_a_busy_one_once_it_was_sent_something(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "ASKERS_BEAT_SECONDS", 0.05)
    neighbour = Neighbour(pb.FlowReply(accepted=True, credit=1, beat_milliseconds=100))
    async with linked_to(neighbour, stages) as unconnected, unconnected as link:
        neighbour.more.put_nowait(pb.FlowReply(beat_milliseconds=60_000))
        await asyncio.sleep(1.2)  # it would be gone
        await link.send(pb.Microbatch(step=1))
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match=r"it was silent for 0\.[789] s$"):
                await link.ended()


async def test_a_neighbour_of_the_release_before_may_be_silent_and_is_sent_no_beats(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "ASKERS_BEAT_SECONDS", 0.05)
    neighbour = Neighbour(pb.FlowReply(accepted=True, credit=1))
    async with linked_to(neighbour, stages) as unconnected, unconnected as link:
        await asyncio.sleep(1.0)
        await link.send(pb.Microbatch(step=1, hidden=bytes(link_module.PART_BYTES + 5)))
        await wait_until(lambda: neighbour.steps == [1])
        assert (neighbour.beats, neighbour.parts) == (0, [])
