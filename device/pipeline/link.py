"""The persistent stream from one stage to the next."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType

import grpc.aio

from device.pipeline.doubts import Doubts
from device.pipeline.kept import KeptRows
from device.pipeline.reaching import Reached, reach
from device.stage_spec import MESSAGE_ROWS_BYTES, NextHop, StageSpec
from device.tasks import first_of
from protos import route
from protos.errors import Conflict, Unavailable
from protos.ids import DeviceId
from protos.net.beats import ENDED, BeatingWriter, Watch
from protos.net.transport import Credentials
from protos.plausible import implausible
from protos.rpc_errors import remote
from protos.silence import ASKERS_BEAT_SECONDS, Pace, announced_seconds, milliseconds
from protos.v1 import pipeline_pb2 as pb
from protos.versions import SPOKEN

# The next stage answers when the whole ring behind it is connected: a dial and a TLS handshake for each stage.
CONNECT_SECONDS = 10.0
# Of rows at once, so that a link of a megabit a second brings something within each of a few beats.
PART_BYTES = 512 << 10


class Link:
    """Outbound half of a hop. `async with` connects: then every stage behind is connected too. Raises what the ring says."""

    def __init__(
        self,
        spec: StageSpec,
        hop: NextHop,
        ring_id: str,
        credentials: Credentials | None,
        own: DeviceId,
        doubts: Doubts,
        kept: Iterable[KeptRows] = (),
        busy: Callable[[], bool] = lambda: True,
    ) -> None:
        """`doubts` are told when the hop is silent. `kept`: what all stages up to this one keep of the ring before.
        `busy`: whether a sequence is open; else beats are seldom."""
        self._pipeline = spec.pipeline
        self._doubts = doubts
        self._busy = busy
        self._hop = hop
        self._where = route.Hop(hop.device, (spec.stage + 1) % spec.stages)
        self._open = pb.FlowOpen(
            protocol_version=SPOKEN.newest,
            oldest_protocol_version=SPOKEN.oldest,
            pipeline_id=spec.pipeline,
            manifest_digest=spec.manifest,
            epoch=spec.epoch,
            to_stage=self._where.stage,
            ring_id=ring_id,
            wire_dtype=spec.shape.wire_dtype,
            from_device=own,
            beat_milliseconds=milliseconds(ASKERS_BEAT_SECONDS),
            kept=[one.to_message() for one in kept],
        )
        self._credentials = credentials
        self._dialled: Reached | None = None
        self.address = ""  # where the hop was reached
        self._call: grpc.aio.StreamStreamCall[pb.FlowMessage, pb.FlowReply] | None = None
        self._writer: BeatingWriter[pb.FlowMessage] | None = None
        self._part_bytes = MESSAGE_ROWS_BYTES
        self._credit = 0
        self.modelled_clock = 0.0  # the latest of the stages behind, when the ring was built
        self._credit_came = asyncio.Event()
        self._beat_seconds = 0.0  # of the next stage, while it is busy
        self._watch: Watch | None = None
        self._sending = asyncio.Lock()
        self._ended: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Link:
        try:
            with remote(self._where):
                async with self._wanted(), asyncio.timeout(CONNECT_SECONDS):
                    self.address, self._dialled = await reach(self._hop, self._where, self._credentials)
                    peer = self._dialled.peer
                    self._call = peer.pipeline_stub.Flow(metadata=peer.metadata)
                    self._writer = BeatingWriter(self._call.write, pb.FlowMessage())
                    with contextlib.suppress(asyncio.InvalidStateError):  # it has ended: the read says why
                        await self._writer.write(pb.FlowMessage(open=self._open))
                    reply = await self._call.read()
        except TimeoutError:
            await self._close()
            where = self.address or " or ".join(self._hop.addresses)
            raise Unavailable(f"it does not answer at {where}").at(self._where) from None
        except BaseException:
            await self._close()
            raise
        if not (isinstance(reply, pb.FlowReply) and reply.accepted):
            await self._close()
            raise Conflict("it did not accept the ring").at(self._where)
        self._credit = reply.credit
        if implausible(reply) is None:
            self.modelled_clock = reply.modelled_clock
        beat_seconds = self._beat_seconds = announced_seconds(reply.beat_milliseconds)
        if beat_seconds:  # it hears ours, and judges by them
            self._part_bytes = PART_BYTES
        self._ended = asyncio.create_task(self._stand(beat_seconds), name=f"link to {self._hop.device}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._close()

    @property
    def busy(self) -> bool:
        """Whether a message that is sent now has to wait."""
        return self._sending.locked() or not self._credit

    async def send(self, message: pb.Microbatch) -> int:
        """Hand over a microbatch, waiting for credit; returns the bytes sent. Raises Unavailable or what the next stage refused with."""
        async with self._sending:
            return await self._send(message)

    async def _send(self, message: pb.Microbatch) -> int:
        assert self._writer is not None
        assert self._ended is not None
        while not self._credit:
            if self._ended.done():
                self._ended.result()
            self._credit_came.clear()
            await asyncio.wait([self._ended, waiter := asyncio.ensure_future(self._credit_came.wait())], return_when="FIRST_COMPLETED")
            waiter.cancel()
        self._credit -= 1
        if self._watch and self._watch.beat_seconds > self._beat_seconds:
            self._watch.expect(self._beat_seconds)  # with this it is busy
        flows, hidden = [], message.hidden
        if len(hidden) > self._part_bytes:
            starts = range(0, len(hidden), self._part_bytes)
            *first, message.hidden = [hidden[start : start + self._part_bytes] for start in starts]
            flows = [pb.FlowMessage(hidden_part=part) for part in first]
        flows.append(pb.FlowMessage(microbatch=message))
        try:
            for flow in flows:
                await self._writer.write(flow)
        except ENDED:
            await self.ended()  # it knows why
            raise Unavailable("the link ended").at(self._where) from None
        return sum(flow.ByteSize() for flow in flows)

    async def ended(self) -> None:
        """Wait until the stream ends, and raise why."""
        assert self._ended is not None
        await asyncio.shield(self._ended)

    def _wanted(self) -> AbstractAsyncContextManager[None]:
        """Around what is done with the next stage: it ends with Denied when that is expelled from the fleet."""
        if self._credentials is None:
            return contextlib.nullcontext()
        return self._credentials.revoked.unless(self._hop.device, self._hop.gateway)

    async def _stand(self, beat_seconds: float) -> None:
        """Until it ends, or the next stage, which beats so often, is silent for too long. Raises why."""
        assert self._writer is not None
        assert self._call is not None
        ours = Pace(ASKERS_BEAT_SECONDS if beat_seconds else 0.0, self._busy, asyncio.get_running_loop().time)
        with Watch(beat_seconds, partial(self._doubts.judged, self._pipeline, self._hop.device)) as watch:
            self._watch = watch
            try:
                async with self._wanted():
                    beating = self._writer.beat_at(ours, lambda seconds: pb.FlowMessage(beat_milliseconds=milliseconds(seconds)))
                    await first_of(self._take_replies(watch), watch.until_gone(self._where), beating)
            finally:
                self._doubts.ended(self._pipeline, self._hop.device)
                self._call.cancel()  # whoever waits for room on it waits no longer

    async def _take_replies(self, watch: Watch) -> None:
        assert self._call is not None
        with remote(self._where):
            while isinstance(reply := await self._call.read(), pb.FlowReply):
                watch.heard()
                watch.expect(announced_seconds(reply.beat_milliseconds))
                self._credit += reply.credit
                self._credit_came.set()
        raise Unavailable("it ended the link").at(self._where)

    async def _close(self) -> None:
        if self._ended:
            self._ended.cancel()
            await asyncio.gather(self._ended, return_exceptions=True)
        if self._call:
            self._call.cancel()
        if self._dialled:
            await self._dialled.close()
