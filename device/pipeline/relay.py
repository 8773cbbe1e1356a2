"""A stage that is not the head: what comes in is carried out in order and handed on."""

from __future__ import annotations

import grpc.aio

from device.pipeline.link import Link
from device.pipeline.stage import Stage
from device.pipeline.wire import encode
from device.stage_spec import StageShape
from device.tasks import first_of
from protos.dtypes import row_bytes
from protos.errors import Conflict, Internal, InvalidInput
from protos.net.transport import Credentials
from protos.v1 import pipeline_pb2 as pb
from protos.versions import SPOKEN

# The head keeps at most one microbatch of each slot group in flight, so this never makes it wait; it bounds a sender gone wrong.
WINDOW = 64

FlowContext = grpc.aio.ServicerContext[pb.FlowMessage, pb.FlowReply]


def accepted(modelled_clock: float) -> pb.FlowReply:
    """The first reply to whoever opens a stream. `modelled_clock`: the latest of this stage and those behind it, in modelled seconds."""
    return pb.FlowReply(
        accepted=True,
        credit=WINDOW,
        protocol_version=SPOKEN.newest,
        oldest_protocol_version=SPOKEN.oldest,
        modelled_clock=modelled_clock,
    )


async def relay(stage: Stage, ring_id: str, context: FlowContext, credentials: Credentials | None) -> None:
    """Serve one inbound stream until either neighbour ends it. Raises why."""
    following = stage.spec.next
    if following is None:
        raise Internal(f"stage {stage.spec.stage} has no next hop")
    stage.join_ring(ring_id)
    try:
        async with Link(stage.spec, following, ring_id, credentials, stage.device) as link:
            stage.aim(following.led_by(link.address))
            await context.write(accepted(max(stage.clock.free_at, link.modelled_clock)))
            await first_of(_pass_on(stage, ring_id, context, link), link.ended())
    finally:
        if stage.ring_id == ring_id:
            stage.leave_ring()


class Microbatches:
    """Iterates an inbound stream; credit goes back for each half window that was carried out."""

    def __init__(self, context: FlowContext, shape: StageShape) -> None:
        self._context = context
        self._most_bytes = shape.prefill_chunk * row_bytes(shape.hidden_size, shape.wire_dtype)
        self._done = 0

    def __aiter__(self) -> Microbatches:
        return self

    async def __anext__(self) -> pb.Microbatch:
        if self._done == WINDOW // 2:
            await self._context.write(pb.FlowReply(credit=self._done))
            self._done = 0
        parts = bytearray()
        while isinstance(message := await self._context.read(), pb.FlowMessage):
            kind = message.WhichOneof("kind")
            if kind == "microbatch":
                self._done += 1
                if parts:
                    message.microbatch.hidden = bytes(parts) + message.microbatch.hidden
                return message.microbatch
            if kind != "hidden_part":
                raise InvalidInput("a second opening on one stream")
            parts += message.hidden_part
            if len(parts) > self._most_bytes:
                raise InvalidInput("a microbatch came with more rows than this stage runs at once")
        raise StopAsyncIteration


async def _pass_on(stage: Stage, ring_id: str, context: FlowContext, link: Link) -> None:
    last = stage.spec.stage == stage.spec.stages - 1
    async for message in Microbatches(context, stage.spec.shape):
        if stage.ring_id != ring_id:
            raise Conflict(f"stage {stage.spec.stage} belongs to a newer ring")
        hidden = await stage.step(message)
        if hidden is not None:
            if last and not message.all_wanted:
                hidden = hidden[list(message.wanted)]
            message.hidden = encode(hidden, stage.spec.shape.wire_dtype)
        stage.counters.sent_bytes += await link.send(message)
