"""The agent's answers to the coordinator: description, blobs, stages, telemetry."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc.aio

from device.agent.host import StageHost
from device.agent.self_knowledge import SelfKnowledge
from device.agent.telemetry import TelemetrySampler
from device.agent.version import agent_version
from device.blobs import Blobs
from device.hardware import AcceleratorInfo, Hardware
from device.publishers import Publishers
from device.stage_spec import parse_generation, parse_spec
from device.tasks import in_thread
from protos.chip.wire import core_message
from protos.dialects import DIALECT, ISA_DIALECT
from protos.errors import InvalidInput, TimedOut
from protos.ids import DeviceId, Digest, PipelineId, parse_digest
from protos.packing import unpacked
from protos.publishing import SignedStatement
from protos.recent_log import MOST_LINES, recent_log
from protos.rpc_errors import answered
from protos.silence import announced_seconds, beats_between, milliseconds
from protos.v1 import device_pb2 as pb
from protos.v1 import device_pb2_grpc, telemetry_pb2
from protos.versions import SPOKEN

AGENT_VERSION = agent_version()
CHUNK_LIMIT_BYTES = 1 << 20
# A sender that is silent for so long has stopped; the blob is free for another then, to be continued.
SILENT_SECONDS = 30.0
SHORTEST_INTERVAL_SECONDS = 0.1


@dataclass(frozen=True)
class DeviceService(device_pb2_grpc.DeviceServicer):
    device: DeviceId
    name: str
    labels: dict[str, str]
    hardware: Hardware
    blobs: Blobs
    publishers: Publishers | None  # None: it asks for nobody's word
    host: StageHost
    telemetry: TelemetrySampler
    knowledge: SelfKnowledge
    dialect: str = DIALECT  # that it runs: see protos/dialects.py
    # A message of 4 MiB may hold a graph of many times that: one is unpacked at a time, and then loaded.
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def describe(self) -> pb.DeviceDescription:
        info = self.hardware.info
        return pb.DeviceDescription(
            protocol_version=SPOKEN.newest,
            oldest_protocol_version=SPOKEN.oldest,
            device_id=self.device,
            name=self.name,
            agent_version=AGENT_VERSION,
            boot_id=self.telemetry.boot_id,
            accelerator=_accelerator(info),
            memory_bytes=self.hardware.memory_bytes,
            memory_used_bytes=self.host.memory_used_bytes,
            memory_held_bytes=self.telemetry.held_bytes(),
            storage_free_bytes=0 if self.blobs.problem else self.blobs.free_bytes(),
            storage_droppable_bytes=self.host.droppable_bytes(),
            storage_problem=self.blobs.problem,
            dialects=(self.dialect,),
            stages=self.host.statuses(),
            labels={"machine": platform.machine(), **self.labels},
            clock_seconds=self.knowledge.now(),
            certificate_not_after=self.knowledge.certificate_not_after,
            memory_available_bytes=self.knowledge.memory_available_bytes,
            hearing=self.knowledge.heard,
            keeps_standbys=True,
            decodes_pairs=True,
        )

    async def Describe(  # noqa: N802 (gRPC's names)
        self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext[pb.DescribeRequest, pb.DeviceDescription]
    ) -> pb.DeviceDescription:
        async with answered(context):
            self.knowledge.called()
            if self.blobs.problem or not self.blobs.free_bytes():  # mended, or come about, since it was last looked for
                await in_thread(self.blobs.look)
            return self.describe()

    async def ReadLog(  # noqa: N802
        self, request: pb.ReadLogRequest, context: grpc.aio.ServicerContext[pb.ReadLogRequest, pb.ReadLogReply]
    ) -> pb.ReadLogReply:
        async with answered(context):
            log = recent_log()
            lines = log.lines(request.after, request.most or MOST_LINES)
            told = [pb.LogLine(number=one.number, at=one.at, level=one.level, logger=one.logger, text=one.text) for one in lines]
            return pb.ReadLogReply(boot_id=log.boot_id, lines=told)

    async def StatBlobs(  # noqa: N802
        self, request: pb.StatBlobsRequest, context: grpc.aio.ServicerContext[pb.StatBlobsRequest, pb.StatBlobsReply]
    ) -> pb.StatBlobsReply:
        async with answered(context):
            digests = [_digest(text) for text in request.digests]
            stats = [pb.BlobStat(digest=d, complete=self.blobs.has(d), present_bytes=self.blobs.present_bytes(d)) for d in digests]
            return pb.StatBlobsReply(blobs=stats)

    async def PutManifest(  # noqa: N802
        self, request: pb.PutManifestRequest, context: grpc.aio.ServicerContext[pb.PutManifestRequest, pb.PutManifestReply]
    ) -> pb.PutManifestReply:
        async with answered(context):
            if self.publishers is not None:
                signed = SignedStatement(request.signed.statement, request.signed.publisher, request.signed.signature)
                await in_thread(self.publishers.vouch, signed, unpacked(request.manifest, request.manifest_zlib))
            return pb.PutManifestReply()

    async def PutBlob(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.PutBlobRequest], context: grpc.aio.ServicerContext[pb.PutBlobRequest, pb.PutBlobReply]
    ) -> pb.PutBlobReply:
        async with answered(context):
            first = await _next(request_iterator)
            if first is None or first.WhichOneof("kind") != "header":
                raise InvalidInput("the first message must be the blob's header")
            header, digest = first.header, _digest(first.header.digest)
            if self.publishers is not None:
                self.publishers.admits(digest, header.size_bytes, programs=self.dialect == ISA_DIALECT)
            if self.blobs.has(digest):
                return pb.PutBlobReply(received_bytes=header.size_bytes)
            with self.blobs.arrive(digest, header.size_bytes, header.offset) as arrival:
                await in_thread(arrival.catch_up)
                while (message := await _next(request_iterator)) is not None:
                    if message.WhichOneof("kind") != "chunk":
                        raise InvalidInput("after the blob's header only chunks are expected")
                    if len(message.chunk) > CHUNK_LIMIT_BYTES:
                        raise InvalidInput(f"a chunk of {len(message.chunk)} bytes; {CHUNK_LIMIT_BYTES} is the most")
                    await in_thread(arrival.write, message.chunk)
                await in_thread(arrival.finish)
                return pb.PutBlobReply(received_bytes=arrival.received_bytes)

    async def RetainBlobs(  # noqa: N802
        self, request: pb.RetainBlobsRequest, context: grpc.aio.ServicerContext[pb.RetainBlobsRequest, pb.RetainBlobsReply]
    ) -> pb.RetainBlobsReply:
        async with answered(context):
            keep = {_digest(text) for text in request.digests}
            return pb.RetainBlobsReply(freed_bytes=await self.host.retain_blobs(parse_generation(request.generation), keep))

    async def LoadStage(  # noqa: N802
        self, request: pb.LoadStageRequest, context: grpc.aio.ServicerContext[pb.LoadStageRequest, pb.LoadStageReply]
    ) -> pb.LoadStageReply:
        async with answered(context):
            async with self.loading:
                spec = parse_spec(request)
                if self.publishers is not None:
                    self.publishers.check_stage(spec)
                seconds = await self.host.load(spec, standby=request.standby)
            return pb.LoadStageReply(memory_bytes=spec.memory_bytes, load_seconds=seconds)

    async def UnloadStage(  # noqa: N802
        self, request: pb.UnloadStageRequest, context: grpc.aio.ServicerContext[pb.UnloadStageRequest, pb.UnloadStageReply]
    ) -> pb.UnloadStageReply:
        async with answered(context):
            await self.host.unload(parse_generation(request.generation), PipelineId(request.pipeline_id))
        return pb.UnloadStageReply()

    async def WatchTelemetry(  # noqa: N802
        self,
        request: pb.WatchTelemetryRequest,
        context: grpc.aio.ServicerContext[pb.WatchTelemetryRequest, telemetry_pb2.TelemetrySample],
    ) -> AsyncIterator[telemetry_pb2.TelemetrySample]:
        async with answered(context):
            # The order of the arguments makes not-a-number the shortest: asyncio's timers would lose their order over it.
            interval = min(max(SHORTEST_INTERVAL_SECONDS, request.interval_seconds), 3600.0)
            beat = announced_seconds(request.beat_milliseconds)
            beats = beats_between(interval, beat)
            while True:
                self.knowledge.called()
                sample, changes = self.telemetry.sample(), self.host.doubts.changes
                sample.beat_milliseconds = milliseconds(beat)
                yield sample
                for pause in range(beats + 1):
                    if await self.host.doubts.changed_within(changes, interval / (beats + 1)):
                        break  # that waits for no interval
                    if pause < beats:
                        yield telemetry_pb2.TelemetrySample()


async def _next(messages: AsyncIterator[pb.PutBlobRequest]) -> pb.PutBlobRequest | None:
    """None at the end. Raises TimedOut."""
    try:
        async with asyncio.timeout(SILENT_SECONDS):
            return await anext(messages, None)
    except TimeoutError:
        raise TimedOut(f"nothing came of the blob for {SILENT_SECONDS:.0f} s") from None


def _accelerator(info: AcceleratorInfo) -> pb.Accelerator:
    return pb.Accelerator(
        profile=info.profile,
        description=info.description,
        simulated=info.simulated,
        pace=info.pace,
        threads=info.threads,
        figures=pb.Figures(**vars(info.figures)),
        thermal=pb.Thermal(**vars(info.thermal)) if info.thermal else None,
        energy_source=info.energy_source,
        hollow=info.hollow,
        core=core_message(info.core) if info.core else None,
        timed_by_programs=info.timed_by_programs,
    )


def _digest(text: str) -> Digest:
    try:
        return parse_digest(text)
    except ValueError as error:
        raise InvalidInput(str(error)) from error
