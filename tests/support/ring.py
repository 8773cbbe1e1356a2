"""A ring of real agents in this process: real TLS and streams, a tiny model, one agent per stage."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio

from device.agent.program import Agent, AgentConfig
from device.cpu import CpuHardware
from device.engine.engine import Runtime
from device.engine.opening import ONNX
from device.hardware import Hardware
from fleet.deploying.load_order import attention_slots, row_multiple
from fleet.deploying.programs import program_files, stage_times
from protos.decoding import DecodeMode
from protos.dtypes import KvDtype, WireDtype
from protos.dtypes import kv_dtype as parse_kv_dtype
from protos.errors import FleetError
from protos.ids import PipelineId, parse_digest
from protos.manifest import Manifest
from protos.net.transport import CHUNK_BYTES, Credentials, Peer, dial
from protos.net.verdict import Verdict
from protos.rpc_errors import from_failure, remote
from protos.v1 import device_pb2, pipeline_pb2
from protos.versions import SPOKEN
from quantize.artifact.costs import stage_cost
from quantize.artifact.golden import stage_golden
from quantize.artifact.graph import build_norm_graph, build_stage_graph
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.huggingface import open_huggingface
from quantize.importing.importer import import_model
from quantize.parts import stage_blobs, stage_parts
from tests.support.checkpoints import TinyGlm, write_checkpoint
from tests.support.kept import kept
from tests.support.members import TestFleet, credentials_of


def tiny_model(folder: Path, shape: TinyGlm, block_size: int = 32, **how: Any) -> tuple[Manifest, ArtifactStore]:
    """As "tiny" in the store `folder`/artifacts, its checkpoint in `folder`/checkpoint; `how` are `import_model`'s."""

    def make(empty: Path) -> None:
        with open_huggingface(write_checkpoint(empty / "checkpoint", shape)) as checkpoint:
            import_model(checkpoint, ArtifactStore(empty / "artifacts"), "tiny", block_size=block_size, **how)

    kept((shape, block_size, *sorted(how.items())), make, folder)
    store = ArtifactStore(folder / "artifacts")
    return store.load("tiny"), store


@dataclass
class Answer:
    """What one sequence got."""

    token_ids: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    logprobs: list[pipeline_pb2.Logprobs] = field(default_factory=list)  # of those that have some
    prompt_logprobs: list[pipeline_pb2.Logprobs] = field(default_factory=list)  # from the prompt's second token on
    embedding: list[float] = field(default_factory=list)
    finished: pipeline_pb2.Finished | None = None
    error: FleetError | None = None


class Client:
    """One Generate stream, read in the background."""

    def __init__(self, peer: Peer, attach: pipeline_pb2.Attach) -> None:
        self._call = peer.pipeline_stub.Generate(metadata=peer.metadata)
        self._attach = attach
        self._answers: dict[int, Answer] = {}
        self._ends: dict[int, asyncio.Event] = {}
        self._numbers = 0
        self._reader: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()  # gRPC takes one write at a time

    async def attach(self) -> None:
        with remote("head"):
            await self._call.write(pipeline_pb2.GenerateRequest(attach=self._attach))
            event = await self._call.read()
        assert isinstance(event, pipeline_pb2.GenerateEvent)
        assert event.attached
        self._reader = asyncio.create_task(self._read())

    async def start(
        self,
        prompt: Sequence[int],
        count: int,
        *,
        forced: Sequence[int] = (),
        stops: Sequence[int] = (),
        prefix: int = 0,
        spans: Sequence[pipeline_pb2.Span] = (),
        reuse_decoded: bool = False,
        key: bytes = b"",
        most_replayed: int | None = None,
        undrafted: bool = False,
        **sampling: Any,
    ) -> int:
        self._numbers = number = self._numbers + 1
        self._answers[number], self._ends[number] = Answer(), asyncio.Event()
        submit = pipeline_pb2.Submit(
            sequence=number,
            prompt_ids=prompt,
            forced_ids=forced,
            max_tokens=count,
            stop_token_ids=stops,
            prefix=prefix,
            spans=spans,
            reuse_decoded=reuse_decoded,
            key=key,
            most_replayed=most_replayed,
            undrafted=undrafted,
            sampling=pipeline_pb2.Sampling(**sampling),
        )
        await self._write(pipeline_pb2.GenerateRequest(submit=submit))
        return number

    async def tell(self, messages: Sequence[pipeline_pb2.GenerateRequest]) -> None:
        for message in messages:
            await self._write(message)

    async def cancel(self, number: int) -> None:
        await self._write(pipeline_pb2.GenerateRequest(cancel=pipeline_pb2.Cancel(sequence=number)))

    async def pause(self, number: int, paused: bool) -> None:
        await self._write(pipeline_pb2.GenerateRequest(pause=pipeline_pb2.Pause(sequence=number, paused=paused)))

    def answer(self, number: int) -> Answer:
        return self._answers[number]

    async def end(self, number: int) -> Answer:
        await self._ends[number].wait()
        return self._answers[number]

    async def ask(self, prompt: Sequence[int], count: int, **options: Any) -> Answer:
        """`options` are `start`'s."""
        return await self.end(await self.start(prompt, count, **options))

    async def close(self) -> None:
        if self._reader:
            self._reader.cancel()
        self._call.cancel()
        await asyncio.gather(*([self._reader] if self._reader else []), return_exceptions=True)

    async def _write(self, request: pipeline_pb2.GenerateRequest) -> None:
        async with self._writing:
            await self._call.write(request)

    async def _read(self) -> None:
        while isinstance(event := await self._call.read(), pipeline_pb2.GenerateEvent):
            for read in event.prompt_logprobs:
                answer = self._answers[read.sequence]
                assert read.start == len(answer.prompt_logprobs) + 1
                assert not answer.token_ids
                answer.prompt_logprobs += read.rows
            for found in event.embeddings:
                self._answers[found.sequence].embedding = list(found.values)
            for token in event.tokens:
                answer = self._answers[token.sequence]
                answer.token_ids.append(token.token_id)
                answer.indices.append(token.index)
                if token.HasField("logprobs"):
                    answer.logprobs.append(token.logprobs)
            for finished in event.finished:
                answer = self._answers[finished.sequence]
                answer.finished = finished
                if finished.HasField("failure"):
                    answer.error = from_failure(finished.failure)
                self._ends[finished.sequence].set()


@dataclass
class Ring:
    """Agents with stages 0 … n-1 of one pipeline loaded."""

    agents: list[Agent]
    peers: list[Peer]
    attach: pipeline_pb2.Attach
    requests: list[device_pb2.LoadStageRequest]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        client = Client(self.peers[0], self.attach)
        try:
            await client.attach()
            yield client
        finally:
            await client.close()

    async def open_sequences(self, stages: Sequence[int] | None = None) -> int:
        """Over all stages, or some."""
        total = 0
        for peer in self.peers if stages is None else [self.peers[stage] for stage in stages]:
            description = await peer.device_stub.Describe(device_pb2.DescribeRequest(), metadata=peer.metadata)
            total += sum(stage.open_sequences for stage in description.stages)
        return total

    async def all_freed(self) -> None:
        async with asyncio.timeout(5):
            while await self.open_sequences():  # noqa: ASYNC110 (asked over the wire: nothing here tells)
                await asyncio.sleep(0.02)

    async def restart(self, stage: int, hardware: Hardware | None = None) -> None:
        """After the agent was left: a new one on the same state and port (and on a CPU unless told), its stage loaded again."""
        before, peer = self.agents[stage], self.peers[stage]
        config = dataclasses.replace(before.config, port=int(peer.address.rpartition(":")[2]))
        self.agents[stage] = Agent(config, hardware or CpuHardware(1 << 30, 1))
        await self.agents[stage].__aenter__()
        with remote(peer.device):
            await peer.device_stub.LoadStage(self.requests[stage], metadata=peer.metadata, wait_for_ready=True)


def cuts(layers: int, stages: int) -> list[tuple[int, int]]:
    edges = [layers * index // stages for index in range(stages + 1)]
    return list(itertools.pairwise(edges))


def load_requests(
    manifest: Manifest,
    hops: Sequence[device_pb2.Hop],
    *,
    context: int = 128,
    slots: int = 4,
    chunk: int = 16,
    epoch: int = 1,
    kv_dtype: KvDtype = "float32",
    wire_dtype: WireDtype = "float32",
    decode: DecodeMode = "rows",
    golden_from: Path | None = None,
) -> list[device_pb2.LoadStageRequest]:
    """What a coordinator would send to the devices of `hops`, layers cut evenly. `golden_from`: the blob folder, for devices to check
    themselves."""
    requests, config, at_once = [], manifest.config, attention_slots(manifest, decode, kv_dtype, slots)
    for stage, (first, stop) in enumerate(cuts(config.layers, len(hops))):
        parts = stage_parts(manifest, first, stop, head=stage == 0)
        body = [part for part in parts if part != "head"]
        blobs = {blob.digest for blob in stage_blobs(manifest, parts)}
        golden = stage_golden(manifest, parts, first, stop, context, kv_dtype, golden_from) if golden_from else None
        requests.append(
            device_pb2.LoadStageRequest(
                generation=device_pb2.Generation(deployment="test", number=1),
                pipeline_id=PipelineId("test-1"),
                manifest_digest=manifest.digest,
                epoch=epoch,
                stage=stage,
                stages=len(hops),
                parts=parts,
                blobs=sorted(blobs),
                shape=device_pb2.StageShape(
                    hidden_size=config.hidden_size,
                    vocab_size=config.vocab_size,
                    first_layer=first,
                    stop_layer=stop,
                    kv_heads=config.kv_heads,
                    head_dim=config.head_dim,
                    context=context,
                    groups=len(hops),
                    slots_per_group=slots,
                    prefill_chunk=chunk,
                    row_multiple=row_multiple(manifest),
                    kv_dtype=kv_dtype,
                    wire_dtype=wire_dtype,
                    prefix_whole=config.prefix_whole,
                    learned_positions=config.learned_positions,
                    values_are_keys=config.latent is not None,
                    decode=decode,
                    attention_slots=at_once,
                ),
                graph=build_stage_graph(manifest, body, kv_dtype=kv_dtype, slots=at_once),
                head_graph=build_stage_graph(manifest, ["head"]) if stage == 0 else b"",
                norm_graph=build_norm_graph(manifest) if stage == 0 else b"",
                next=hops[(stage + 1) % len(hops)] if len(hops) > 1 else None,
                previous=hops[stage - 1] if len(hops) > 1 else None,
                cost=device_pb2.StageCost(**dataclasses.asdict(stage_cost(manifest, parts, kv_dtype))),
                golden=device_pb2.Golden(**dataclasses.asdict(golden)) if golden else None,
            )
        )
    return requests


def add_programs(
    request: device_pb2.LoadStageRequest, manifest: Manifest, store: ArtifactStore, description: device_pb2.DeviceDescription
) -> None:
    """What a coordinator would tell a device of programs, or give it in the place of graphs."""
    if times := stage_times(manifest, request, description):
        request.times.CopyFrom(times)
    shape = request.shape
    files = program_files(manifest, tuple(request.parts), parse_kv_dtype(shape.kv_dtype), shape.context, description, store)
    if files:
        request.programs.CopyFrom(files.message)
        request.blobs.extend(blob.digest for blob in files.blobs)
        request.ClearField("graph")
        request.ClearField("head_graph")
        request.ClearField("norm_graph")
        if request.HasField("golden"):
            request.golden.ClearField("layers_graph")


async def put_blob(peer: Peer, digest: str, data: bytes, offset: int = 0, stop: int | None = None) -> None:
    async def messages() -> AsyncIterator[device_pb2.PutBlobRequest]:
        yield device_pb2.PutBlobRequest(header=device_pb2.PutBlobHeader(digest=digest, size_bytes=len(data), offset=offset))
        for start in range(offset, stop or len(data), CHUNK_BYTES):
            yield device_pb2.PutBlobRequest(chunk=data[start : min(start + CHUNK_BYTES, stop or len(data))])

    with remote(peer.device):
        call = peer.device_stub.PutBlob(messages(), metadata=peer.metadata)
        verdict = Verdict(call)  # a refusal may come while we still write
        try:
            await call
        except grpc.aio.AioRpcError as error:
            raise verdict.on(error) from None


@asynccontextmanager
async def agents(
    folder: Path, hardware: Sequence[Hardware], runtimes: Sequence[Runtime] = ()
) -> AsyncIterator[tuple[list[Agent], list[Peer], Credentials]]:
    """Real agents on loopback, one on each of `hardware`, and connections to them; `runtimes`: what they compute by, unless it is ONNX."""
    fleet = TestFleet.open(folder)
    credentials = credentials_of(fleet.member("coordinator", "coordinator"))
    identities = [fleet.member(f"dev-{index}") for index in range(len(hardware))]
    made = [
        Agent(AgentConfig(folder / f"dev-{index}", f"dev-{index}", "127.0.0.1"), item, runtime)
        for index, (item, runtime) in enumerate(zip(hardware, runtimes or [ONNX] * len(hardware), strict=True))
    ]
    try:
        addresses = await asyncio.gather(*(agent.__aenter__() for agent in made))
        peers = [dial(address, identity.device_id, credentials) for address, identity in zip(addresses, identities, strict=True)]
        yield made, peers, credentials
        await asyncio.gather(*(peer.close() for peer in peers))
    finally:
        await asyncio.gather(*(agent.__aexit__(None, None, None) for agent in made))
        for item in hardware:
            item.close()


@asynccontextmanager
async def ring(
    folder: Path,
    manifest: Manifest,
    store: ArtifactStore,
    stages: int,
    *,
    hardware: Sequence[Hardware] = (),
    runtimes: Sequence[Runtime] = (),
    **shape: Any,
) -> AsyncIterator[Ring]:
    async with agents(folder, hardware or [CpuHardware(1 << 30, 1) for _ in range(stages)], runtimes) as (made, peers, _):
        hops = [device_pb2.Hop(device_id=peer.device, address=peer.address) for peer in peers]
        requests = load_requests(manifest, hops, golden_from=store.blob_folder, **shape)
        for peer, request in zip(peers, requests, strict=True):
            description = await peer.device_stub.Describe(device_pb2.DescribeRequest(), metadata=peer.metadata)
            add_programs(request, manifest, store, description)
            for digest in request.blobs:
                await put_blob(peer, digest, store.blob_path(parse_digest(digest)).read_bytes())
            with remote(peer.device):
                await peer.device_stub.LoadStage(request, metadata=peer.metadata)
        attach = pipeline_pb2.Attach(
            protocol_version=SPOKEN.newest, pipeline_id="test-1", manifest_digest=manifest.digest, epoch=requests[0].epoch
        )
        yield Ring(made, peers, attach, requests)
