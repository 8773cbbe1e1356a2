"""A device that does as the test says: both services over real gRPC and TLS, nothing computed, blobs in memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc.aio

from device.agent.identity import Identity
from protos.dialects import DIALECT
from protos.errors import Conflict, FleetError, NotFound, Unavailable
from protos.ids import digest_of
from protos.net import transport
from protos.rpc_errors import answered, to_failure
from protos.silence import beats_between
from protos.v1 import device_pb2 as pb
from protos.v1 import device_pb2_grpc, pipeline_pb2, pipeline_pb2_grpc, telemetry_pb2
from protos.versions import SPOKEN

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class Behaviour:
    """What a test sets; read at each call."""

    protocol_version: int = SPOKEN.newest
    oldest_protocol_version: int = SPOKEN.oldest
    claims_id: str | None = None  # in Describe, instead of its own
    dialects: Sequence[str] = (DIALECT,)
    memory_bytes: int = 1 << 30
    storage_free_bytes: int = 1 << 30
    storage_droppable_bytes: int | None = None  # None: it does not say, as a release before
    storage_problem: str = ""
    silent: bool = False  # no more samples and beats, though the stream stands
    beats: bool = False  # when asked for; False: as a release before
    cut_after_bytes: list[int] = field(default_factory=list)  # PutBlob ends with Unavailable after so many bytes: one entry a transfer
    errors: dict[str, FleetError] = field(default_factory=dict)  # by method: raised
    holds: dict[str, asyncio.Event] = field(default_factory=dict)  # by method: waited for
    token_ids: Sequence[int] = (72, 105)  # of every answer
    token_seconds: float = 0.0  # after each token
    failure: FleetError | None = None  # how every sequence ends after its tokens
    release_before: bool = False  # speaks as it did
    keeps_standbys: bool = True
    tokens_wait: asyncio.Event | None = None  # before each token
    unmetered: bool = False
    gauges: telemetry_pb2.Gauges = field(default_factory=telemetry_pb2.Gauges)
    silent_neighbours: Sequence[str] = ()


class FakeDevice(device_pb2_grpc.DeviceServicer, pipeline_pb2_grpc.PipelineServicer):
    """An async context manager. `restart` is a new boot: stages are gone, blobs stay."""

    def __init__(self, identity: Identity, name: str) -> None:
        self.device = identity.device_id
        self.name = name
        self.is_told = Behaviour()
        self.blobs: dict[str, bytearray] = {}
        self.complete: set[str] = set()
        self.stages: dict[str, pb.LoadStageRequest] = {}
        self.standbys: dict[tuple[str, int], pb.LoadStageRequest] = {}
        self.packed: list[int] = []  # stages whose weights were read, in order
        self.highest: dict[str, int] = {}
        self.calls: list[str] = []
        self.attached: list[pipeline_pb2.Attach] = []
        self.submitted: list[pipeline_pb2.Submit] = []
        self.cancelled: list[int] = []
        self.pauses: list[bool] = []
        self.told_tokens = 0
        self.port = 0
        self._identity = identity
        self._boot_id = ""
        self._samples = itertools.count()
        self._server: transport.Served | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def start(self) -> None:
        """On the port it had, if it had one."""
        self._boot_id = uuid.uuid4().hex
        self._samples = itertools.count()

        def register(server: grpc.aio.Server) -> None:
            device_pb2_grpc.add_DeviceServicer_to_server(self, server)
            pipeline_pb2_grpc.add_PipelineServicer_to_server(self, server)

        bind = f"127.0.0.1:{self.port}"
        self._server, self.port = await transport.serve(bind, self.device, self._identity.credentials, register)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def restart(self) -> None:
        await self.stop()
        self.stages.clear()
        self.standbys.clear()
        self.highest.clear()
        await self.start()

    def hold_blob(self, data: bytes, present: int | None = None) -> None:
        """It has the blob already, or its first `present` bytes."""
        digest = digest_of(data)
        self.blobs[digest] = bytearray(data if present is None else data[:present])
        if present is None:
            self.complete.add(digest)

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DeviceDescription:  # noqa: N802
        async with self._called("Describe", context):
            return pb.DeviceDescription(
                protocol_version=self.is_told.protocol_version,
                oldest_protocol_version=self.is_told.oldest_protocol_version,
                device_id=self.is_told.claims_id or self.device,
                name=self.name,
                agent_version="fake",
                boot_id=self._boot_id,
                accelerator=pb.Accelerator(profile="fake", simulated=True, energy_source=telemetry_pb2.ENERGY_SOURCE_MODELLED),
                memory_bytes=self.is_told.memory_bytes,
                memory_used_bytes=0,
                storage_free_bytes=self.is_told.storage_free_bytes,
                storage_droppable_bytes=self.is_told.storage_droppable_bytes,
                storage_problem=self.is_told.storage_problem,
                dialects=self.is_told.dialects,
                stages=[
                    pb.StageStatus(
                        pipeline_id=stage.pipeline_id,
                        manifest_digest=stage.manifest_digest,
                        epoch=stage.epoch,
                        stage=stage.stage,
                        parts=stage.parts,
                        generation=stage.generation,
                        memory_bytes=stage.cost.weight_bytes,
                        standby=stage.standby,
                    )
                    for stage in (*self.stages.values(), *self.standbys.values())
                ],
                keeps_standbys=self.is_told.keeps_standbys,
                decodes_pairs=True,
            )

    async def PutManifest(self, request: pb.PutManifestRequest, context: Context) -> pb.PutManifestReply:  # noqa: N802
        return pb.PutManifestReply()

    async def ReadLog(self, request: pb.ReadLogRequest, context: Context) -> pb.ReadLogReply:  # noqa: N802
        async with self._called("ReadLog", context):
            return pb.ReadLogReply(boot_id="boot", lines=[pb.LogLine(number=1, at=1e9, level="INFO", logger="it", text=self.name)])

    async def StatBlobs(self, request: pb.StatBlobsRequest, context: Context) -> pb.StatBlobsReply:  # noqa: N802
        async with self._called("StatBlobs", context):
            return pb.StatBlobsReply(
                blobs=[
                    pb.BlobStat(digest=digest, complete=digest in self.complete, present_bytes=len(self.blobs.get(digest, b"")))
                    for digest in request.digests
                ]
            )

    async def PutBlob(self, request_iterator: AsyncIterator[pb.PutBlobRequest], context: Context) -> pb.PutBlobReply:  # noqa: N802
        async with self._called("PutBlob", context):
            header = (await anext(request_iterator)).header
            held = self.blobs.setdefault(header.digest, bytearray())
            if header.offset != len(held):
                raise Conflict(f"offset {header.offset}, but {len(held)} bytes are here")
            cut = self.is_told.cut_after_bytes.pop(0) if self.is_told.cut_after_bytes else None
            async for message in request_iterator:
                held.extend(message.chunk)
                if cut is not None and len(held) >= cut:
                    del held[cut:]
                    raise Unavailable("the link was cut")
            assert len(held) == header.size_bytes
            assert hashlib.sha256(held).hexdigest() == header.digest
            self.complete.add(header.digest)
            return pb.PutBlobReply(received_bytes=len(held))

    async def RetainBlobs(self, request: pb.RetainBlobsRequest, context: Context) -> pb.RetainBlobsReply:  # noqa: N802
        async with self._called("RetainBlobs", context):
            self._admit(request.generation)
            freed = [digest for digest in self.blobs if digest not in request.digests]
            freed_bytes = sum(len(self.blobs.pop(digest)) for digest in freed)
            self.complete -= set(freed)
            self.is_told.storage_free_bytes += freed_bytes
            return pb.RetainBlobsReply(freed_bytes=freed_bytes)

    async def LoadStage(self, request: pb.LoadStageRequest, context: Context) -> pb.LoadStageReply:  # noqa: N802
        async with self._called("LoadStage", context):
            self._admit(request.generation)
            missing = set(request.blobs) - self.complete
            if missing:
                raise NotFound(f"{len(missing)} blobs are not here")
            there = self._hold(request)
            return pb.LoadStageReply(memory_bytes=request.cost.weight_bytes, load_seconds=0.0 if there else 0.5)

    async def UnloadStage(self, request: pb.UnloadStageRequest, context: Context) -> pb.UnloadStageReply:  # noqa: N802
        async with self._called("UnloadStage", context):
            self._admit(request.generation)
            self.stages.pop(request.pipeline_id, None)
            self._drop_standbys(request.pipeline_id)
            return pb.UnloadStageReply()

    async def WatchTelemetry(  # noqa: N802
        self, request: pb.WatchTelemetryRequest, context: Context
    ) -> AsyncIterator[telemetry_pb2.TelemetrySample]:
        async with self._called("WatchTelemetry", context):
            beat_milliseconds = request.beat_milliseconds if self.is_told.beats else 0
            beats = beats_between(request.interval_seconds, beat_milliseconds / 1000)
            while True:
                for beat in range(beats + 1):
                    if not self.is_told.silent:
                        yield telemetry_pb2.TelemetrySample() if beat else self._sample(beat_milliseconds)
                    await asyncio.sleep(request.interval_seconds / (beats + 1))

    # Both in the form of the real servicer (device/agent/pipeline_service.py), which the type stubs do not know.
    async def Generate(self, request_iterator: object, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        async with self._called("Generate", context):
            attach = (await context.read()).attach
            stage = self.stages.get(attach.pipeline_id)
            if stage is None or stage.epoch != attach.epoch:
                raise NotFound(f"no stage of {attach.pipeline_id} is loaded here")
            self.attached.append(attach)
            await context.write(pipeline_pb2.GenerateEvent(attached=True))
            async with contextlib.AsyncExitStack() as stack:
                await self._serve(context, stack)

    async def Flow(self, request_iterator: object, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        raise NotImplementedError

    async def Mirror(self, request_iterator: object, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        raise NotImplementedError

    async def _serve(self, context: Context, stack: contextlib.AsyncExitStack) -> None:
        """Each sequence in a task of its own; one writer, since gRPC takes one write at a time."""
        events: asyncio.Queue[pipeline_pb2.GenerateEvent] = asyncio.Queue()
        sequences: dict[int, _Sequence] = {}

        async def write() -> None:
            while True:
                await context.write(await events.get())

        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(write())
            try:
                while isinstance(message := await context.read(), pipeline_pb2.GenerateRequest):
                    match message.WhichOneof("kind"):
                        case "submit":
                            self.submitted.append(message.submit)
                            sequence = sequences[message.submit.sequence] = _Sequence(message.submit)
                            tasks.create_task(self._answer(sequence, events.put_nowait))
                        case "cancel":
                            self.cancelled.append(message.cancel.sequence)
                            sequences[message.cancel.sequence].cancel()
                        case "pause":
                            self.pauses.append(message.pause.paused)
                            sequences[message.pause.sequence].pause(message.pause.paused)
            finally:
                writer.cancel()
                for sequence in sequences.values():
                    sequence.cancel()

    async def _answer(self, sequence: _Sequence, tell: Callable[[pipeline_pb2.GenerateEvent], None]) -> None:
        number, submit, told = sequence.submit.sequence, sequence.submit, self.is_told
        forced = len(submit.forced_ids)
        count, reason = forced, pipeline_pb2.FINISH_REASON_STOP
        for token_id in told.token_ids:
            if count >= submit.max_tokens:
                reason = pipeline_pb2.FINISH_REASON_LENGTH
                break
            waits = [sequence.running.wait(), *([told.tokens_wait.wait()] if told.tokens_wait else [])]
            await sequence.unless_cancelled(asyncio.gather(*waits))
            if sequence.is_cancelled:
                break
            tell(pipeline_pb2.GenerateEvent(tokens=[pipeline_pb2.TokenEvent(sequence=number, index=count, token_id=token_id)]))
            self.told_tokens += 1
            count += 1
            await asyncio.sleep(told.token_seconds)
        if sequence.is_cancelled:
            reason = pipeline_pb2.FINISH_REASON_CANCELLED
        finished = pipeline_pb2.Finished(sequence=number, reason=reason, usage=[self._usage()])
        finished.timing.CopyFrom(
            pipeline_pb2.SequenceTiming(
                first_token_seconds=0.5,
                total_seconds=0.5 + 0.1 * (count - 1),
                modelled_first_token_seconds=0.25,
                modelled_total_seconds=0.25 + 0.05 * (count - 1),
                prompt_tokens=len(submit.prompt_ids),
                completion_tokens=count,
                told_tokens=count,
            )
        )
        if told.failure is not None and not sequence.is_cancelled:
            failure = to_failure(told.failure)
            if told.release_before:
                failure.ClearField("route")
            finished = pipeline_pb2.Finished(sequence=number, reason=pipeline_pb2.FINISH_REASON_ERROR, failure=failure)
        tell(pipeline_pb2.GenerateEvent(finished=[finished]))

    def _usage(self) -> telemetry_pb2.StageUsage:
        unmetered = self.is_told.unmetered
        return telemetry_pb2.StageUsage(
            device_id=self.device,
            stage=0,
            busy_seconds=0.4,
            modelled_busy_seconds=0.2,
            joules=0.0 if unmetered else 3.0,
            source=telemetry_pb2.ENERGY_SOURCE_UNMETERED if unmetered else telemetry_pb2.ENERGY_SOURCE_MODELLED,
        )

    def _sample(self, beat_milliseconds: int) -> telemetry_pb2.TelemetrySample:
        return telemetry_pb2.TelemetrySample(
            beat_milliseconds=beat_milliseconds,
            device_id=self.device,
            boot_id=self._boot_id,
            index=next(self._samples),
            gauges=self.is_told.gauges,
            pipelines=[telemetry_pb2.PipelineCounters(pipeline_id="tiny-1", silent_neighbours=self.is_told.silent_neighbours)],
            energy=telemetry_pb2.EnergyCounter(source=telemetry_pb2.ENERGY_SOURCE_MODELLED, busy_joules=float(self.told_tokens)),
            work=telemetry_pb2.WorkCounter(answer_tokens=self.told_tokens, busy_joules=float(self.told_tokens)),
        )

    def _hold(self, request: pb.LoadStageRequest) -> bool:
        """As a StageHost; whether it was there already, in the same epoch."""
        key = (request.pipeline_id, request.stage)
        held = self.stages.get(request.pipeline_id)
        if request.standby:
            there, self.standbys[key] = key in self.standbys, request
            self.packed += [] if there else [request.stage]
            return there
        if key not in self.standbys and (held is None or held.stage != request.stage):
            self.packed.append(request.stage)
        self._drop_standbys(request.pipeline_id)
        self.stages[request.pipeline_id] = request
        return held == request

    def _drop_standbys(self, pipeline: str) -> None:
        self.standbys = {key: held for key, held in self.standbys.items() if key[0] != pipeline}

    def _admit(self, generation: pb.Generation) -> None:
        highest = self.highest.get(generation.deployment, 0)
        if generation.number < highest:
            raise Conflict(f"generation {generation.number} is older than {highest}")
        self.highest[generation.deployment] = generation.number

    @contextlib.asynccontextmanager
    async def _called(self, method: str, context: Context) -> AsyncIterator[None]:
        async with answered(context):
            self.calls.append(method)
            if method in self.is_told.holds:
                await self.is_told.holds[method].wait()
            if method in self.is_told.errors:
                raise self.is_told.errors[method]
            yield


class _Sequence:
    def __init__(self, submit: pipeline_pb2.Submit) -> None:
        self.submit = submit
        self.running = asyncio.Event()
        self.running.set()
        self._cancelled = asyncio.Event()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()

    def pause(self, paused: bool) -> None:
        self.running.clear() if paused else self.running.set()

    async def unless_cancelled(self, wait: asyncio.Future[list[bool]]) -> None:
        either: list[asyncio.Future[Any]] = [wait, asyncio.ensure_future(self._cancelled.wait())]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for one in either:
            one.cancel()
