"""The agent's answers over real gRPC: blobs, stages, telemetry; and nothing malformed kills it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.agent.device_service import CHUNK_LIMIT_BYTES
from device.cpu import CpuHardware
from device.hardware import RunReport
from device.memory import held_bytes
from protos.errors import Busy, Conflict, Corrupt, FleetError, InvalidInput, NoSpace, NotFound, Unavailable
from protos.ids import digest_of, parse_digest
from protos.net.transport import Peer
from protos.rpc_errors import remote
from protos.v1 import device_pb2 as pb
from protos.v1 import pipeline_pb2
from protos.versions import SPOKEN
from tests.support.checkpoints import TinyGlm
from tests.support.ring import Client, agents, put_blob
from tests.support.stage_specs import TinyStages
from tests.support.waiting import wait_until

DATA = bytes(range(256)) * 8000  # two chunks
DIGEST = digest_of(DATA)
GENERATION = pb.Generation(deployment="test", number=1)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> TinyStages:
    return TinyStages.make(tmp_path_factory.mktemp("model"), TinyGlm(layers=2))


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.cpu.copy_bandwidth", lambda: 1.0)


@asynccontextmanager
async def device(folder: Path, memory_bytes: int = 1 << 30, hardware: CpuHardware | None = None) -> AsyncIterator[Peer]:
    async with agents(folder, [hardware or CpuHardware(memory_bytes, 1)]) as (_, (peer,), _):
        yield peer


class Halting(CpuHardware):
    """Stands still before a request's fourth run until `go` is set: a tiny model's answer would be over before anybody looks."""

    def __init__(self) -> None:
        super().__init__(1 << 30, 1)
        self.runs = 0
        self.go = threading.Event()

    def run(self, run: object, compute: Callable[[], None]) -> RunReport:
        self.runs += 1
        if self.runs > 3:
            self.go.wait(30)
        return super().run(run, compute)


async def describe(peer: Peer) -> pb.DeviceDescription:
    with remote(peer.device):
        return await peer.device_stub.Describe(pb.DescribeRequest(), metadata=peer.metadata)


async def load(peer: Peer, request: pb.LoadStageRequest) -> pb.LoadStageReply:
    with remote(peer.device):
        return await peer.device_stub.LoadStage(request, metadata=peer.metadata)


async def unload(peer: Peer, pipeline: str, number: int = 1) -> None:
    with remote(peer.device):
        request = pb.UnloadStageRequest(generation=pb.Generation(deployment="test", number=number), pipeline_id=pipeline)
        await peer.device_stub.UnloadStage(request, metadata=peer.metadata)


async def retain(peer: Peer, digests: Sequence[str] = (), number: int = 1) -> int:
    with remote(peer.device):
        request = pb.RetainBlobsRequest(generation=pb.Generation(deployment="test", number=number), digests=digests)
        return (await peer.device_stub.RetainBlobs(request, metadata=peer.metadata)).freed_bytes


async def stat(peer: Peer, *digests: str) -> list[tuple[bool, int]]:
    with remote(peer.device):
        reply = await peer.device_stub.StatBlobs(pb.StatBlobsRequest(digests=digests), metadata=peer.metadata)
    assert [blob.digest for blob in reply.blobs] == list(digests)
    return [(blob.complete, blob.present_bytes) for blob in reply.blobs]


async def put(peer: Peer, messages: Sequence[pb.PutBlobRequest]) -> pb.PutBlobReply:
    async def stream() -> AsyncIterator[pb.PutBlobRequest]:
        for message in messages:
            yield message

    with remote(peer.device):
        return await peer.device_stub.PutBlob(stream(), metadata=peer.metadata)


def header(size: int = len(DATA), offset: int = 0, digest: str = DIGEST) -> pb.PutBlobRequest:
    return pb.PutBlobRequest(header=pb.PutBlobHeader(digest=digest, size_bytes=size, offset=offset))


def chunk(data: bytes) -> pb.PutBlobRequest:
    return pb.PutBlobRequest(chunk=data)


async def push(peer: Peer, stages: TinyStages, request: pb.LoadStageRequest) -> None:
    for digest in request.blobs:
        await put_blob(peer, digest, stages.store.blob_path(parse_digest(digest)).read_bytes())


def attach(request: pb.LoadStageRequest) -> pipeline_pb2.Attach:
    return pipeline_pb2.Attach(
        protocol_version=SPOKEN.newest, pipeline_id=request.pipeline_id, manifest_digest=request.manifest_digest, epoch=request.epoch
    )


async def test_blobs_cut_resumed_refused_and_dropped(tmp_path: Path) -> None:
    async with device(tmp_path) as peer:
        assert await stat(peer, DIGEST) == [(False, 0)]
        with pytest.raises(InvalidInput, match="ended at 700000"):
            await put_blob(peer, DIGEST, DATA, stop=700_000)
        assert await stat(peer, DIGEST, "0" * 64) == [(False, 700_000), (False, 0)]
        with pytest.raises(InvalidInput, match="continue at 700000"):
            await put_blob(peer, DIGEST, DATA)

        # Two at once, and a stream that is cancelled in the middle.
        call = peer.device_stub.PutBlob(metadata=peer.metadata)
        await call.write(header(offset=700_000))
        await call.write(chunk(DATA[700_000:800_000]))
        await wait_until(lambda: (tmp_path / "dev-0" / "blobs" / "incoming" / DIGEST).stat().st_size == 800_000)
        with pytest.raises(Busy):
            await put_blob(peer, DIGEST, DATA, offset=800_000)
        call.cancel()
        async with asyncio.timeout(5):
            while True:  # until the agent has heard of the cut
                try:
                    await put_blob(peer, DIGEST, DATA, offset=800_000)
                    break
                except Busy:
                    await asyncio.sleep(0.01)
        assert await stat(peer, DIGEST) == [(True, len(DATA))]
        # What is here already is taken as done, whatever the sender has begun.
        assert (await put(peer, [header()])).received_bytes == len(DATA)

        assert await retain(peer, [DIGEST]) == 0
        assert await retain(peer, []) == len(DATA)
        assert await stat(peer, DIGEST) == [(False, 0)]


async def test_blobs_that_are_not_what_was_said(tmp_path: Path) -> None:
    flipped = bytes([DATA[0] ^ 1]) + DATA[1:1000]
    cases: list[tuple[list[pb.PutBlobRequest], type[FleetError], str]] = [
        ([], InvalidInput, "header"),
        ([chunk(DATA[:10])], InvalidInput, "header"),
        ([header(), header()], InvalidInput, "only chunks"),
        ([header(), chunk(bytes(CHUNK_LIMIT_BYTES + 1))], InvalidInput, "is the most"),
        ([header(digest="../../x")], InvalidInput, "SHA-256"),
        ([header(digest=DIGEST[:-1])], InvalidInput, "SHA-256"),
        ([header(size=2**64 - 1)], NoSpace, "disk"),
        ([header(offset=2**64 - 1)], InvalidInput, "continue at 0"),
        ([header(size=999, digest=digest_of(DATA[:1000])), chunk(DATA[:1000])], InvalidInput, "longer"),
        ([header(size=1000, digest=digest_of(DATA[:1000])), chunk(flipped)], Corrupt, "arrived changed"),
    ]
    async with device(tmp_path) as peer:
        for messages, error, fault in cases:
            with pytest.raises(error, match=fault):
                await put(peer, messages)
        left = [path for path in (tmp_path / "dev-0" / "blobs").rglob("*") if path.is_file()]
        assert [path.stat().st_size for path in left] in ([], [0])  # the two headers' empty partial
        with pytest.raises(InvalidInput, match="SHA-256"):
            await stat(peer, "nonsense")


async def test_a_stage_s_life(tmp_path: Path, stages: TinyStages) -> None:
    (request,) = stages.requests()
    hardware = Halting()
    async with device(tmp_path, hardware=hardware) as peer:
        with pytest.raises(NotFound, match="blob"):
            await load(peer, request)
        await push(peer, stages, request)
        # One bit changes on the device's disk.
        path = tmp_path / "dev-0" / "blobs" / "sha256" / request.blobs[0]
        data = bytearray(path.read_bytes())
        data[100] ^= 4
        path.write_bytes(data)
        with pytest.raises(Corrupt, match="changed on the device's disk"):
            await load(peer, request)
        assert await stat(peer, request.blobs[0]) == [(False, 0)]
        await push(peer, stages, request)
        loaded = await load(peer, request)
        assert loaded.load_seconds > 0

        described = await describe(peer)
        assert (described.device_id, described.name) == (peer.device, "dev-0")
        assert described.protocol_version == SPOKEN.newest
        assert described.agent_version == version("glmfleet")
        assert described.memory_used_bytes == loaded.memory_bytes == described.stages[0].memory_bytes
        assert list(described.stages[0].parts) == list(request.parts)
        assert described.storage_free_bytes > 0
        assert (described.storage_droppable_bytes, described.storage_problem) == (0, "")  # all of it is used by the loaded stage
        assert described.dialects
        assert not described.accelerator.simulated

        client = Client(peer, attach(request))
        await client.attach()
        number = await client.start([1, 2, 3], 120)
        await wait_until(lambda: client.answer(number).token_ids)
        again = await load(peer, request)
        assert again == pb.LoadStageReply(memory_bytes=loaded.memory_bytes, load_seconds=0)
        assert (await describe(peer)).stages[0].open_sequences == 1
        await retain(peer)  # keeps what the loaded stage uses
        assert all(complete for complete, _ in await stat(peer, *request.blobs))
        hardware.go.set()
        assert len((await client.end(number)).token_ids) == 120
        await client.close()

        newer = pb.LoadStageRequest()
        newer.CopyFrom(request)
        newer.generation.number = newer.epoch = 3
        await load(peer, newer)
        with pytest.raises(Conflict, match="older"):
            await load(peer, request)
        with pytest.raises(Conflict, match="older"):
            await unload(peer, request.pipeline_id, 2)
        with pytest.raises(Conflict, match="older"):
            await retain(peer, number=2)
        await unload(peer, request.pipeline_id, 3)
        described = await describe(peer)
        assert (described.memory_used_bytes, list(described.stages)) == (0, [])
        assert await retain(peer, number=3) == sum(stages.store.blob_path(parse_digest(digest)).stat().st_size for digest in request.blobs)


@pytest.mark.parametrize("way", ["unload", "replace"])
async def test_streams_of_a_stage_that_goes_end_clearly(tmp_path: Path, stages: TinyStages, way: str) -> None:
    (request,) = stages.requests()
    async with device(tmp_path) as peer:
        await push(peer, stages, request)
        await load(peer, request)
        call = peer.pipeline_stub.Generate(metadata=peer.metadata)
        await call.write(pipeline_pb2.GenerateRequest(attach=attach(request)))
        await call.read()
        submit = pipeline_pb2.Submit(sequence=1, prompt_ids=[1, 2], max_tokens=100)
        await call.write(pipeline_pb2.GenerateRequest(submit=submit))
        assert isinstance(await call.read(), pipeline_pb2.GenerateEvent)
        await call.write(pipeline_pb2.GenerateRequest(pause=pipeline_pb2.Pause(sequence=1, paused=True)))
        if way == "unload":
            await unload(peer, request.pipeline_id)
        else:
            request.epoch = 2
            request.generation.number = 2
            await load(peer, request)
        with pytest.raises(Unavailable, match="was unloaded"), remote("head"):  # noqa: PT012
            while await call.read() is not grpc.aio.EOF:
                pass
            raise await _status(call)
        description = await describe(peer)
        assert sum(stage.open_sequences for stage in description.stages) == 0
        assert len(description.stages) == (way == "replace")


async def _status(call: grpc.aio.StreamStreamCall) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(await call.code(), grpc.aio.Metadata(), await call.trailing_metadata(), await call.details())


async def test_too_large_for_the_memory(tmp_path: Path, stages: TinyStages) -> None:
    (request,) = stages.requests()
    async with device(tmp_path, memory_bytes=1 << 20) as peer:
        request.shape.slots_per_group = 1000
        with pytest.raises(NoSpace, match="more than is free"):
            await load(peer, request)
        assert (await describe(peer)).stages == []


async def test_telemetry_counts_up(tmp_path: Path, stages: TinyStages) -> None:
    (request,) = stages.requests()
    async with device(tmp_path) as peer:
        await push(peer, stages, request)
        await load(peer, request)
        client = Client(peer, attach(request))
        await client.attach()
        for interval in (float("nan"), -1.0, 0.0, float("-inf")):
            watch = peer.device_stub.WatchTelemetry(pb.WatchTelemetryRequest(interval_seconds=interval), metadata=peer.metadata)
            told = aiter(watch)
            samples = [await anext(told)]
            answer = await client.ask([1, 2, 3], 5)
            samples += [await anext(told), await anext(told)]
            watch.cancel()
            indices = [sample.index for sample in samples]
            assert indices == list(range(indices[0], indices[0] + 3))
            assert len(answer.token_ids) == 5
            before, after = (samples[index].pipelines[0] for index in (0, 2))
            assert (after.prefill_tokens - before.prefill_tokens, after.decode_tokens - before.decode_tokens) == (3, 4)
            assert after.steps - before.steps == 5
            assert after.busy_seconds > before.busy_seconds
            assert samples[2].uptime_seconds > samples[0].uptime_seconds
            assert {sample.boot_id for sample in samples} == {(await describe(peer)).boot_id}
            assert samples[0].gauges.memory_used_bytes > 0
            assert samples[0].gauges.HasField("memory_held_bytes") == (held_bytes() is not None)
        await client.close()


numbers = st.integers(0, 3) | st.sampled_from([2**31, 2**32 - 1])
texts = st.sampled_from(["", "x", DIGEST, "../..", "\x00\n", "ü" * 100])
anything = st.binary(max_size=60)
values_of = {
    field.name: st.sampled_from(["", "float32", "int8", "pairs", "x"]) if field.type == field.TYPE_STRING else numbers
    for field in pb.StageShape.DESCRIPTOR.fields
}
shapes = st.builds(pb.StageShape, **values_of)


def changes_of(field: str) -> st.SearchStrategy[tuple[str, int | str]]:
    return st.tuples(st.just(field), values_of[field])


loads = st.builds(
    pb.LoadStageRequest,
    generation=st.builds(pb.Generation, deployment=texts, number=numbers),
    pipeline_id=texts,
    manifest_digest=st.just(DIGEST) | texts,
    epoch=numbers,
    stage=numbers,
    stages=numbers,
    parts=st.lists(texts, max_size=2),
    blobs=st.lists(texts, max_size=1),
    shape=shapes,
    graph=anything,
    head_graph=anything,
    next=st.none() | st.builds(pb.Hop, device_id=texts, address=texts),
)


@pytest.mark.hypothesis
async def test_malformed_messages_are_refused_and_survived(tmp_path: Path, stages: TinyStages) -> None:
    (good,) = stages.requests()
    async with device(tmp_path) as peer:
        await push(peer, stages, good)

        async def load_raw(message: pb.LoadStageRequest) -> None:
            try:
                await load(peer, message)
            except FleetError as error:
                assert isinstance(error, (InvalidInput, NotFound, NoSpace)), error.detail  # noqa: PT017

        few = settings(max_examples=min(60, settings().max_examples))  # each is a call over TLS

        @few
        @given(message=loads)
        async def loading(message: pb.LoadStageRequest) -> None:
            await load_raw(message)

        # A stage that would be loaded but for what is changed in one place: as far in as a wrong message can come.
        @few
        @given(change=st.sampled_from(sorted(values_of)).flatmap(changes_of), graph=st.none() | anything)
        async def nearly(change: tuple[str, int | str], graph: bytes | None) -> None:
            message = pb.LoadStageRequest()
            message.CopyFrom(good)
            setattr(message.shape, *change)
            if graph is not None:
                message.graph = graph
            await load_raw(message)

        for run in (loading, nearly):
            await asyncio.to_thread(_on_loop(asyncio.get_running_loop(), run))
        random = np.random.default_rng(0)
        for method in pb.DESCRIPTOR.services_by_name["Device"].methods_by_name:
            for size in (1, 3, 40):
                raw: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = peer.channel.unary_stream(f"/glmfleet.v1.Device/{method}")
                call = raw(random.bytes(size), metadata=peer.metadata)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await call.read()
                call.cancel()
        assert (await describe(peer)).device_id == peer.device
        good.generation.number = 2**40
        await load(peer, good)


def _on_loop(loop: asyncio.AbstractEventLoop, run: Callable[[], object]) -> Callable[[], object]:
    """A Hypothesis test over a coroutine function, for another thread: each example runs on `loop`."""
    inner = run.hypothesis.inner_test  # type: ignore[attr-defined]

    def example(**drawn: object) -> None:
        asyncio.run_coroutine_threadsafe(inner(**drawn), loop).result(30)

    run.hypothesis.inner_test = example  # type: ignore[attr-defined]
    return run
