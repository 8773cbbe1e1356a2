"""What a coordinator asks of one device, typed, with the device's name in every error."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import grpc.aio

from fleet.devices.views import LogView
from protos.errors import Conflict, Corrupt, InvalidInput, TemporaryError, TimedOut, Unavailable
from protos.ids import Digest, PipelineId
from protos.net.transport import CHUNK_BYTES, Peer
from protos.net.verdict import Verdict
from protos.packing import packed
from protos.publishing import SignedStatement
from protos.recent_log import LogLine
from protos.rpc_errors import remote
from protos.silence import milliseconds
from protos.v1 import device_pb2 as pb
from protos.v1 import telemetry_pb2

QUICK_SECONDS = 5.0  # calls that only look something up
LOAD_SECONDS = 120.0  # a 1.5B model takes 6 s on a workstation (benchmarks/README.md); boards and cold disks need far more
PUSH_TRIES = 5
STALL_SECONDS = 30.0  # a device that takes not even one chunk, or does not confirm a blob, in that time has stopped


@dataclass(frozen=True)
class BlobState:
    complete: bool
    present_bytes: int


class DeviceClient:
    """Calls to one device. Every method raises FleetErrors whose detail begins with `name`; does not own the connection."""

    def __init__(self, peer: Peer, name: str) -> None:
        self.peer = peer
        self.name = name

    async def describe(self) -> pb.DeviceDescription:
        with remote(self.name):
            return await self.peer.device_stub.Describe(pb.DescribeRequest(), metadata=self.peer.metadata, timeout=QUICK_SECONDS)

    async def read_log(self, after: int, most: int) -> LogView:
        """Its last lines. Raises InvalidInput for a device whose agent keeps none."""
        with remote(self.name):
            request = pb.ReadLogRequest(after=after, most=most)
            reply = await self.peer.device_stub.ReadLog(request, metadata=self.peer.metadata, timeout=QUICK_SECONDS)
        lines = tuple(LogLine(one.number, one.at, one.level, one.logger, one.text) for one in reply.lines)
        return LogView(self.name, reply.boot_id, lines)

    async def stat_blobs(self, digests: Sequence[Digest]) -> dict[Digest, BlobState]:
        """How much of each blob is there; what the device does not mention is absent."""
        found = dict.fromkeys(digests, BlobState(False, 0))
        with remote(self.name):
            reply = await self.peer.device_stub.StatBlobs(
                pb.StatBlobsRequest(digests=digests), metadata=self.peer.metadata, timeout=QUICK_SECONDS
            )
        found.update({Digest(blob.digest): BlobState(blob.complete, blob.present_bytes) for blob in reply.blobs})
        return found

    async def put_manifest(self, signed: SignedStatement, manifest: bytes) -> None:
        """What a publisher says of a manifest, before its blobs are sent. A device of the release before asks for nobody's word."""
        plain, compressed = packed(manifest)
        statement = pb.SignedStatement(statement=signed.statement, publisher=signed.publisher, signature=signed.signature)
        request = pb.PutManifestRequest(signed=statement, manifest=plain, manifest_zlib=compressed)
        with contextlib.suppress(Conflict), remote(self.name):
            await self.peer.bulk_stub.PutManifest(request, metadata=self.peer.metadata, timeout=QUICK_SECONDS)

    async def put_blob(
        self,
        digest: Digest,
        path: Path,
        size_bytes: int,
        *,
        progress: Callable[[int], None],
        known: BlobState | None = None,
        tries: int = PUSH_TRIES,
    ) -> None:
        """Send the blob in `path`, from where the device has it; `progress` is told the bytes that are there.

        `known`: what the device has said of it a moment ago; None: it is asked.

        A cut transfer is taken up again after a wait of 0.2 s, doubled each time, `tries` times in a row without a byte of headway.
        Raises what the device said, Unavailable, or Corrupt when the file here is not `size_bytes` long.
        """
        failures, reached = 0, -1
        while True:
            try:
                state = known if known is not None else (await self.stat_blobs([digest]))[digest]
                if state.present_bytes > reached:
                    failures, reached = 0, state.present_bytes
                progress(size_bytes if state.complete else state.present_bytes)
                if not state.complete:
                    await self._send(digest, path, size_bytes, state.present_bytes, progress)
                return
            except (Conflict, InvalidInput):
                if known is None:
                    raise
                known = None  # what it had a moment ago has changed
            except TemporaryError as error:
                failures, known = failures + 1, None
                if failures >= tries:
                    raise
                await asyncio.sleep(max(0.2 * 2 ** (failures - 1), error.retry_after_seconds))

    async def load_stage(self, request: pb.LoadStageRequest) -> pb.LoadStageReply:
        with remote(self.name):
            return await self.peer.bulk_stub.LoadStage(request, metadata=self.peer.metadata, timeout=LOAD_SECONDS)

    async def unload_stage(self, generation: pb.Generation, pipeline: PipelineId) -> None:
        with remote(self.name):
            request = pb.UnloadStageRequest(generation=generation, pipeline_id=pipeline)
            await self.peer.device_stub.UnloadStage(request, metadata=self.peer.metadata, timeout=LOAD_SECONDS)

    async def retain_blobs(self, generation: pb.Generation, digests: Sequence[Digest]) -> int:
        """Drop every other blob that no stage uses; the bytes freed."""
        with remote(self.name):
            request = pb.RetainBlobsRequest(generation=generation, digests=digests)
            reply = await self.peer.device_stub.RetainBlobs(request, metadata=self.peer.metadata, timeout=LOAD_SECONDS)
        return reply.freed_bytes

    async def watch_telemetry(
        self, interval_seconds: float, beat_seconds: float = 0.0
    ) -> AsyncGenerator[telemetry_pb2.TelemetrySample, None]:
        """Samples until the link ends, which raises; with beats between them, which are empty. Close the iterator to leave."""
        request = pb.WatchTelemetryRequest(interval_seconds=interval_seconds, beat_milliseconds=milliseconds(beat_seconds))
        with remote(self.name):
            call = self.peer.device_stub.WatchTelemetry(request, metadata=self.peer.metadata)
            try:
                async for sample in call:
                    yield sample
            finally:
                call.cancel()
        raise Unavailable("the device ended its telemetry").at(self.name)

    async def _send(self, digest: Digest, path: Path, size_bytes: int, offset: int, progress: Callable[[int], None]) -> None:
        file = await asyncio.to_thread(_open_at, path, size_bytes, offset)
        try:
            with remote(self.name):
                call = self.peer.bulk_stub.PutBlob(metadata=self.peer.metadata)
                verdict = Verdict(call)
                try:
                    header = pb.PutBlobHeader(digest=digest, size_bytes=size_bytes, offset=offset)
                    await self._unless_stalled(call.write(pb.PutBlobRequest(header=header)))
                    sent = offset
                    while chunk := await asyncio.to_thread(functools.partial(file.read, CHUNK_BYTES)):
                        await self._unless_stalled(call.write(pb.PutBlobRequest(chunk=chunk)))
                        sent += len(chunk)
                        progress(sent)
                    await call.done_writing()
                except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    pass  # the device answered before the end: its answer says why
                except BaseException:
                    call.cancel()
                    raise
                try:
                    await self._unless_stalled(call)
                except grpc.aio.AioRpcError as error:
                    raise verdict.on(error) from None
        finally:
            file.close()

    async def _unless_stalled(self, step: Awaitable[object]) -> None:
        """Raises TimedOut. The link may stand all the same: gRPC answers pings for a program that has stopped."""
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await step
        except TimeoutError:
            raise TimedOut(f"it takes no more of a blob for {STALL_SECONDS:.0f} s").at(self.name) from None


def _open_at(path: Path, size_bytes: int, offset: int) -> BinaryIO:
    if offset > size_bytes:
        raise InvalidInput(f"the device holds {offset} bytes of a blob of {size_bytes}")
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise Corrupt(f"blob {path.name[:12]} is missing on this machine", advice="import the model again") from None
    found = path.stat().st_size
    if found != size_bytes:
        file.close()
        raise Corrupt(f"blob {path.name[:12]} has {found} bytes here instead of {size_bytes}", advice="import the model again")
    file.seek(offset)
    return file
