"""The stream from the stage before: its microbatches in order, its silence noticed while a step is computed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

import grpc.aio

from device.pipeline.doubts import Doubts
from device.stage_spec import StageShape
from device.tasks import first_of
from protos.dtypes import row_bytes
from protos.errors import FleetError, InvalidInput
from protos.ids import DeviceId, PipelineId
from protos.net.beats import BeatingWriter, Watch
from protos.route import Hop
from protos.silence import BEAT_SECONDS, Pace, announced_seconds, milliseconds
from protos.v1 import pipeline_pb2 as pb
from protos.versions import SPOKEN

# The head keeps at most one microbatch of each slot group in flight, so this never makes it wait; it bounds a sender gone wrong.
WINDOW = 64

FlowContext: TypeAlias = "grpc.aio.ServicerContext[pb.FlowMessage, pb.FlowReply]"


class Inbound:
    """Iterates what comes; credit goes back for each half window that was carried out. `accept` it, then iterate within `serve`."""

    def __init__(
        self,
        context: FlowContext,
        shape: StageShape,
        opening: pb.FlowOpen,
        sender: Hop,
        doubts: Doubts,
        busy: Callable[[], bool] = lambda: True,
    ) -> None:
        """`opening`: the first message, which was read; `sender`: who has sent it; `doubts` are told when that is silent; `busy`: whether a
        sequence is open."""
        self._busy = busy
        self._pipeline = PipelineId(opening.pipeline_id)
        self._doubts = doubts
        self._context = context
        self._sender = sender
        self._most_bytes = shape.prefill_chunk * row_bytes(shape.hidden_size, shape.wire_dtype)
        self._beat_seconds = self._senders_beat = announced_seconds(opening.beat_milliseconds)
        self._done = 0
        self._writer = BeatingWriter(context.write, pb.FlowReply())
        # One of each group is under way: more come only from a sender gone wrong, which then waits.
        self._came: asyncio.Queue[pb.Microbatch | FleetError | StopAsyncIteration] = asyncio.Queue(shape.groups + 1)

    async def accept(self, modelled_clock: float) -> None:
        """The first reply. `modelled_clock`: the latest of this stage and those behind it, in modelled seconds."""
        reply = pb.FlowReply(
            accepted=True,
            credit=WINDOW,
            protocol_version=SPOKEN.newest,
            oldest_protocol_version=SPOKEN.oldest,
            modelled_clock=modelled_clock,
        )
        if self._beat_seconds:
            reply.beat_milliseconds = milliseconds(BEAT_SECONDS)
        await self._writer.write(reply)

    async def serve(self, *work: Coroutine[Any, Any, None]) -> None:
        """Run all of this until one ends, or the sender is silent for too long, which raises Unavailable."""
        sender = DeviceId(self._sender.device)
        with Watch(self._beat_seconds, partial(self._doubts.judged, self._pipeline, sender)) as watch:
            pace = Pace(BEAT_SECONDS if self._beat_seconds else 0.0, self._busy_soon, asyncio.get_running_loop().time)
            beating = self._writer.beat_at(pace, lambda seconds: pb.FlowReply(beat_milliseconds=milliseconds(seconds)))
            try:
                await first_of(self._read(watch), watch.until_gone(self._sender), beating, *work)
            finally:
                self._doubts.ended(self._pipeline, sender)

    def _busy_soon(self) -> bool:
        """The sender has begun something already, or not ended it."""
        return self._busy() or self._senders_beat <= self._beat_seconds

    def __aiter__(self) -> Inbound:
        return self

    async def __anext__(self) -> pb.Microbatch:
        """Raises InvalidInput for what does not belong on the stream."""
        if self._done == WINDOW // 2:
            await self._writer.write(pb.FlowReply(credit=self._done))
            self._done = 0
        came = await self._came.get()
        if not isinstance(came, pb.Microbatch):
            raise came
        self._done += 1
        return came

    async def _read(self, watch: Watch) -> None:
        ended: FleetError | StopAsyncIteration | None = None
        while ended is None:
            try:
                message = await self._next(watch)
            except (FleetError, StopAsyncIteration) as end:
                ended = end
            with watch.excused():
                await self._came.put(ended or message)
        with watch.excused():  # it has said its last word
            await asyncio.Event().wait()

    async def _next(self, watch: Watch) -> pb.Microbatch:
        parts = bytearray()
        while isinstance(message := await self._context.read(), pb.FlowMessage):
            watch.heard()
            if message.WhichOneof("kind") in ("microbatch", "hidden_part"):
                self._senders_beat = self._beat_seconds
            if message.HasField("microbatch"):
                if parts:
                    message.microbatch.hidden = bytes(parts) + message.microbatch.hidden
                return message.microbatch
            if message.HasField("hidden_part"):
                parts += message.hidden_part
                if len(parts) > self._most_bytes:
                    raise InvalidInput("a microbatch came with more rows than this stage runs at once")
            elif message.HasField("beat_milliseconds"):
                self._senders_beat = announced_seconds(message.beat_milliseconds) or self._senders_beat
                watch.expect(self._senders_beat)
            elif message.HasField("open"):
                raise InvalidInput("a second opening on one stream")
            elif not self._beat_seconds:
                raise InvalidInput("a message of nothing, of a sender that announced no beats")
        raise StopAsyncIteration
