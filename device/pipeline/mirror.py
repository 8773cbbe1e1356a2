"""What a stage sends its standby: the rows of its cache, as they are made, so that the standby can go on behind them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TypeAlias

import grpc.aio

from device.pipeline.reaching import reach
from device.pipeline.stage import Stage
from device.stage_spec import NextHop
from device.tasks import first_of
from protos.errors import FleetError, Unavailable
from protos.net.beats import ENDED
from protos.net.transport import Credentials
from protos.physics.memory import kv_position_bytes
from protos.route import Hop
from protos.rpc_errors import remote
from protos.v1 import pipeline_pb2 as pb
from protos.versions import SPOKEN

# New rows are looked for so often: what was made since is decoded again when the device is lost.
LOOK_SECONDS = 0.2
# Of rows in one message. The next is sent no sooner than the one before took, so that half of a slow link is left to the ring.
PART_BYTES = 512 << 10
ANSWER_SECONDS = 30.0
# After a standby could not be reached, or refused.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0

_Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.MirrorMessage, pb.MirrorReply]"
_log = logging.getLogger(__name__)


class Mirror:
    """To one standby, in a task of its own, until it is ended."""

    def __init__(self, stage: Stage, to: NextHop, credentials: Credentials | None) -> None:
        self.to = to
        self._stage = stage
        self._credentials = credentials
        self._where = Hop(to.device, stage.spec.stage)
        self._told: dict[bytes, int] = {}  # rows that the standby has, by key
        self._done = asyncio.Event()
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"mirror of {stage.spec.pipeline}")

    def wake(self) -> None:
        """Try now, if it waits: the standby may be ready."""
        self._wake.set()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        wait, said = FIRST_WAIT_SECONDS, ""
        while True:
            try:
                await self._session()
            except FleetError as error:
                if self._told or error.detail != said:
                    _log.info("stage %d of %s is not mirrored: %s", self._stage.spec.stage, self._stage.spec.pipeline, error.detail)
                wait, said = FIRST_WAIT_SECONDS if self._told else min(2 * wait, LONGEST_WAIT_SECONDS), error.detail
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    async def _session(self) -> None:
        """Until it breaks. Raises why."""
        self._told = {}
        spec = self._stage.spec
        _, reached = await reach(self.to, self._where, self._credentials)
        call = reached.peer.pipeline_stub.Mirror(metadata=reached.peer.metadata)
        try:
            opening = pb.MirrorOpen(
                protocol_version=SPOKEN.newest,
                oldest_protocol_version=SPOKEN.oldest,
                pipeline_id=spec.pipeline,
                manifest_digest=spec.manifest,
                stage=spec.stage,
                from_device=self._stage.device,
            )
            await first_of(self._follow(call, opening), self._replies(call))
        finally:
            call.cancel()
            await reached.close()

    async def _follow(self, call: _Call, opening: pb.MirrorOpen) -> None:
        await self._tell(call, pb.MirrorMessage(open=opening))
        while True:
            await self._catch_up(call)
            await asyncio.sleep(LOOK_SECONDS)

    async def _replies(self, call: _Call) -> None:
        """Raises why the stream ended."""
        with remote(self._where):
            while isinstance(await call.read(), pb.MirrorReply):
                self._done.set()
        raise Unavailable("it ended the stream").at(self._where)

    async def _catch_up(self, call: _Call) -> None:
        """Tell what has changed since it was told last."""
        places = dict(self._stage.places())
        if gone := [key for key in self._told if key not in places]:
            await self._tell(call, pb.MirrorMessage(forgotten=pb.Forgotten(keys=gone)))
            self._told = {key: rows for key, rows in self._told.items() if key in places}
        for key in places:
            while (rows := self._new_rows(key)) is not None:
                began = asyncio.get_running_loop().time()
                await self._tell(call, pb.MirrorMessage(rows=rows))
                self._told[key] = rows.start + rows.count
                await asyncio.sleep(asyncio.get_running_loop().time() - began)

    def _new_rows(self, key: bytes) -> pb.MirroredRows | None:
        """As many as go into one message; None where it has them all. Of the slot where they are now: it may have changed meanwhile."""
        place = dict(self._stage.places()).get(key)
        if place is None:
            return None
        group, slot = self._stage.engine.groups[place[0]], place[1]
        start, length = min(self._told.get(key, 0), group.lengths[slot]), group.lengths[slot]
        count = min(length - start, max(1, PART_BYTES // self._row_bytes))
        if not count:
            return None
        return pb.MirroredRows(key=key, start=start, count=count, data=group.rows(slot, start, start + count))

    @property
    def _row_bytes(self) -> int:
        shape = self._stage.spec.shape
        return len(shape.layers) * kv_position_bytes(shape.kv_heads, shape.head_dim, shape.kv_dtype, shape.values_are_keys)

    async def _tell(self, call: _Call, message: pb.MirrorMessage) -> None:
        """And wait until it was carried out. Raises Unavailable."""
        self._done.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                with contextlib.suppress(*ENDED):  # why it ended, `_replies` says
                    await call.write(message)
                await self._done.wait()
                return
        raise Unavailable(f"it took no rows for {ANSWER_SECONDS:.0f} s").at(self._where)
