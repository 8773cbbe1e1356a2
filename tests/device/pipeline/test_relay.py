"""What a stage that is not the head does with a ring's messages."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import numpy as np
import pytest

from device.agent.host import StageHost
from device.agent.pipeline_service import PipelineService
from device.blobs import BlobStore
from device.cpu import CpuHardware
from device.pipeline.inbound import WINDOW
from device.stage_spec import StageSpec
from protos import silence
from protos.errors import Conflict, FleetError, InvalidInput, NotFound, Unavailable
from protos.ids import DeviceId
from protos.net.transport import Peer, dial, serve
from protos.rpc_errors import remote
from protos.v1 import pipeline_pb2 as pb
from protos.v1 import pipeline_pb2_grpc
from protos.versions import SPOKEN
from tests.device.pipeline.test_link import HUGE, ROW_BYTES, SLOTS, Call, Neighbour, _quick_start, neighbouring, spec_of, stages  # noqa: F401 (fixtures)
from tests.support.ring import Client
from tests.support.stage_specs import TinyStages
from tests.support.waiting import wait_until


@dataclass(frozen=True)
class OneStage:
    spec: StageSpec
    host: StageHost
    peer: Peer
    neighbour: Neighbour

    @asynccontextmanager
    async def flow(self, **changes: object) -> AsyncIterator[Call]:
        """A stream into the stage, as the one before it would open it."""
        spec = self.spec
        fields: dict[str, object] = {"pipeline_id": spec.pipeline, "manifest_digest": spec.manifest, "epoch": spec.epoch}
        before = spec.previous.device if spec.previous else ""
        fields |= {"protocol_version": SPOKEN.newest, "to_stage": spec.stage, "ring_id": "ring", "from_device": before, **changes}
        call = self.peer.pipeline_stub.Flow(metadata=self.peer.metadata)
        try:
            await call.write(pb.FlowMessage(open=pb.FlowOpen(**fields)))  # type: ignore[arg-type]
            yield call
        finally:
            call.cancel()

    @asynccontextmanager
    async def accepted(self, ring_id: str = "ring") -> AsyncIterator[Call]:
        async with self.flow(ring_id=ring_id) as call:
            spoken = {"protocol_version": SPOKEN.newest, "oldest_protocol_version": SPOKEN.oldest}
            assert await call.read() == pb.FlowReply(accepted=True, credit=WINDOW, **spoken)
            yield call


@asynccontextmanager
async def one_stage(folder: Path, stages: TinyStages, stage: int) -> AsyncIterator[OneStage]:
    blobs = BlobStore(folder / "blobs")
    for digest in stages.manifest.blobs():
        shutil.copy(stages.store.blob_path(digest), blobs.folder / digest)
    hardware, device = CpuHardware(1 << 30, 1), DeviceId("real")
    neighbour = Neighbour(pb.FlowReply(accepted=True, credit=1000))
    async with neighbouring(neighbour) as hop, StageHost(device, hardware, blobs, None) as host:
        spec = spec_of(stages, stage, hop)
        await host.load(spec)

        def register(server: grpc.aio.Server) -> None:
            pipeline_pb2_grpc.add_PipelineServicer_to_server(PipelineService(host, None), server)

        server, port = await serve("127.0.0.1:0", device, None, register)
        peer = dial(f"127.0.0.1:{port}", device, None)
        try:
            yield OneStage(spec, host, peer, neighbour)
        finally:
            await peer.close()
            await server.stop(0)
    hardware.close()


async def end_of(call: Call) -> FleetError:
    """What the stream ends with."""
    async with asyncio.timeout(10):
        try:
            with remote("it"):
                while await call.read() is not grpc.aio.EOF:
                    pass
                raise grpc.aio.AioRpcError(await call.code(), grpc.aio.Metadata(), await call.trailing_metadata(), await call.details())
        except FleetError as error:
            return error


def hidden(rows: int) -> bytes:
    return np.random.default_rng(rows).standard_normal((rows, 72)).astype("<f4").tobytes()


def prefill(slot: int, rows: int = 4, **fields: object) -> pb.FlowMessage:
    fields = {"opened": [pb.Opened(slot=slot, sequence=slot + 1)], "prefill": True, "slots": [slot], "positions": [0], **fields}
    return pb.FlowMessage(microbatch=pb.Microbatch(**{"rows": rows, "hidden": hidden(rows), **fields}))  # type: ignore[arg-type]


def decode(slots: list[int], positions: list[int], **fields: object) -> pb.FlowMessage:
    fields = {"slots": slots, "positions": positions, "rows": len(slots), "hidden": hidden(len(slots)), **fields}
    return pb.FlowMessage(microbatch=pb.Microbatch(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("spoken", [{"protocol_version": 1}, {"protocol_version": 2, "oldest_protocol_version": 1}], ids=str)
async def test_a_sender_one_version_apart_is_taken(tmp_path: Path, stages: TinyStages, spoken: dict[str, object]) -> None:
    async with one_stage(tmp_path, stages, 1) as one, one.flow(**spoken) as call:
        reply = await call.read()
        assert isinstance(reply, pb.FlowReply)
        assert reply.accepted


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"protocol_version": 0}, Conflict),
        ({"protocol_version": 99}, Conflict),
        ({"protocol_version": 99, "oldest_protocol_version": 98}, Conflict),
        ({"pipeline_id": "x"}, NotFound),
        ({"manifest_digest": "0" * 64}, Conflict),
        ({"epoch": 2}, Conflict),
        ({"wire_dtype": "int8"}, Conflict),
        ({"wire_dtype": "x"}, Conflict),
        ({"to_stage": 0}, Conflict),
        ({"to_stage": HUGE}, Conflict),
        ({"ring_id": ""}, InvalidInput),
    ],
    ids=str,
)
async def test_openings_that_are_not_for_this_stage(
    tmp_path: Path, stages: TinyStages, changes: dict[str, object], error: type[FleetError]
) -> None:
    async with one_stage(tmp_path, stages, 1) as one, one.flow(**changes) as call:
        assert type(await end_of(call)) is error
        assert one.neighbour.opening is None


async def test_the_last_stage_hands_on_the_rows_wanted(tmp_path: Path, stages: TinyStages) -> None:
    async with one_stage(tmp_path, stages, 1) as one, one.accepted() as call:
        assert one.neighbour.opening
        opening = one.neighbour.opening
        assert (opening.to_stage, opening.ring_id, opening.from_device) == (0, "ring", "real")
        await call.write(prefill(0, 4, step=1))
        await call.write(prefill(1, 4, step=2, wanted=[3]))
        await call.write(decode([0, 1], [4, 4], step=3, wanted=[1]))
        await call.write(decode([0, 1], [5, 5], step=4, all_wanted=True))
        released = [pb.Released(slot=0, sequence=1), pb.Released(slot=1, sequence=2)]
        await call.write(pb.FlowMessage(microbatch=pb.Microbatch(step=5, released=released)))
        await wait_until(lambda: len(one.neighbour.messages) == 5)
        messages = one.neighbour.messages
        assert [message.step for message in messages] == [1, 2, 3, 4, 5]
        assert [len(message.hidden) // ROW_BYTES for message in messages] == [0, 1, 1, 2, 0]
        assert [(item.usage[0].prefill_rows, item.usage[0].decode_rows) for item in messages[4].released] == [(4, 2)] * 2
        stage = one.host.loaded[0].stage
        assert stage.open_sequences == 0
        assert stage.counters.sent_bytes == sum(pb.FlowMessage(microbatch=message).ByteSize() for message in messages)


async def test_credit_comes_back_for_what_was_carried_out(tmp_path: Path, stages: TinyStages) -> None:
    async with one_stage(tmp_path, stages, 1) as one, one.accepted() as call:
        for step in range(WINDOW + 1):
            await call.write(pb.FlowMessage(microbatch=pb.Microbatch(step=step)))
        assert [await call.read() for _ in range(2)] == [pb.FlowReply(credit=WINDOW // 2)] * 2


WRONG: dict[str, Callable[[], pb.FlowMessage]] = {
    "second opening": lambda: pb.FlowMessage(open=pb.FlowOpen()),
    "nothing": pb.FlowMessage,
    "payload": lambda: decode([0], [4], hidden=b"123"),
    "payload of megabytes": lambda: decode([0], [4], hidden=bytes(3 << 20)),
    "group": lambda: decode([0], [4], group=HUGE),
    "slot": lambda: decode([HUGE], [4]),
    "slots and rows": lambda: decode([0], [4], rows=HUGE),
    "position": lambda: decode([0], [HUGE]),
    "position negative-like": lambda: decode([0], [2**31]),
    "no position": lambda: decode([0], []),
    "prefill far out": lambda: prefill(1, positions=[HUGE - 3]),
    "prefill of nothing open": lambda: prefill(1, opened=[]),
    "swap out": lambda: decode([0], [4], swapped=[pb.Swapped(from_slot=0, to_slot=HUGE)]),
    "open out": lambda: decode([0], [4], opened=[pb.Opened(slot=SLOTS, sequence=1)]),
    "wanted": lambda: decode([0], [4], wanted=[HUGE]),
}


async def test_what_does_not_fit_ends_the_stream_and_nothing_else(tmp_path: Path, stages: TinyStages) -> None:
    async with one_stage(tmp_path, stages, 1) as one:
        for name, wrong in WRONG.items():
            async with one.accepted(name) as call:
                await call.write(prefill(0))
                await call.write(wrong())
                assert type(await end_of(call)) is InvalidInput, name
        async with one.accepted("good") as call:
            await call.write(prefill(0, step=7))
            await wait_until(lambda: one.neighbour.steps[-1:] == [7])


async def test_random_bytes_are_survived(tmp_path: Path, stages: TinyStages) -> None:
    random = np.random.default_rng(0)
    async with one_stage(tmp_path, stages, 1) as one:
        for method in ("Flow", "Generate"):
            for size in range(1, 40):
                call = one.peer.channel.stream_stream(f"/glmfleet.v1.Pipeline/{method}")(metadata=one.peer.metadata)
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await call.write(random.bytes(size))
                    await call.read()
                call.cancel()
        async with one.accepted() as good:
            await good.write(prefill(0, step=7))
            await wait_until(lambda: one.neighbour.steps == [7])


async def test_an_unloaded_stage_ends_its_streams(tmp_path: Path, stages: TinyStages) -> None:
    async with one_stage(tmp_path, stages, 1) as one, one.accepted() as call:
        await call.write(prefill(0))
        await one.host.unload(one.spec.generation, one.spec.pipeline)
        error = await end_of(call)
        assert isinstance(error, Unavailable)
        assert "stage 1 of pipeline test-1 was unloaded" in error.detail


async def test_a_newer_ring_takes_over(tmp_path: Path, stages: TinyStages) -> None:
    async with one_stage(tmp_path, stages, 1) as one, one.accepted("older") as older:
        await older.write(prefill(0))
        await wait_until(lambda: len(one.neighbour.messages) == 1)
        stage = one.host.loaded[0].stage
        async with one.accepted("newer") as newer:
            assert stage.open_sequences == 0
            await newer.write(prefill(0))
            await older.write(prefill(1))
            assert isinstance(await end_of(older), Conflict)
            await wait_until(lambda: stage.open_sequences == 1)
            assert stage.orphaned_since is None  # the older one's end says nothing of the newer
        await wait_until(lambda: stage.orphaned_since is not None)


async def test_the_end_behind_is_told_in_front(tmp_path: Path, stages: TinyStages) -> None:
    async with one_stage(tmp_path, stages, 1) as one, one.accepted() as call:
        one.neighbour.more.put_nowait(None)
        assert "stage 0 on neighbour: no more of this" in (await end_of(call)).detail


def _another_size(message: pb.Microbatch) -> None:
    message.hidden = hidden(2)[:-4]


def _another_step(message: pb.Microbatch) -> None:
    message.step += 1


def _another_slot(message: pb.Microbatch) -> None:
    message.slots[0] = HUGE


def _a_release(message: pb.Microbatch) -> None:
    message.released.add(slot=0, sequence=1)


@pytest.mark.parametrize("change", [_another_size, _another_step, _another_slot, _a_release])
async def test_the_head_takes_back_only_what_it_sent(tmp_path: Path, stages: TinyStages, change: Callable[[pb.Microbatch], None]) -> None:
    async with one_stage(tmp_path, stages, 0) as one:
        attach = pb.Attach(protocol_version=SPOKEN.newest, pipeline_id="test-1", manifest_digest=one.spec.manifest, epoch=1)
        client = Client(one.peer, attach)
        await client.attach()
        assert one.neighbour.opening
        async with one.flow(ring_id="another") as other:
            assert isinstance(await end_of(other), Conflict)
        async with one.accepted(one.neighbour.opening.ring_id) as returns:
            number = await client.start([1, 2], 5)
            await wait_until(lambda: len(one.neighbour.messages) == 1)
            message = one.neighbour.messages[0]
            message.hidden = hidden(1)
            await returns.write(pb.FlowMessage(microbatch=message))
            await wait_until(lambda: len(one.neighbour.messages) == 2)
            assert len(client.answer(number).token_ids) == 1
            message = one.neighbour.messages[1]
            message.hidden = hidden(1)
            change(message)
            await returns.write(pb.FlowMessage(microbatch=message))
            assert isinstance(await end_of(returns), InvalidInput | Conflict)
            answer = await client.end(number)
            assert isinstance(answer.error, InvalidInput | Conflict)
        await client.close()
        await wait_until(lambda: one.host.statuses()[0].open_sequences == 0)


async def test_a_sender_that_beats_and_falls_silent_ends_the_stream(
    tmp_path: Path, stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is heard, and judged, while a step is computed."""
    async with one_stage(tmp_path, stages, 1) as stage:
        loaded = stage.host.loaded[0].stage
        computing = asyncio.Event()

        async def forever(*_: object) -> None:
            computing.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(loaded, "step", forever)
        async with stage.flow(beat_milliseconds=100) as call:
            reply = await call.read()
            assert isinstance(reply, pb.FlowReply)
            assert (reply.accepted, reply.beat_milliseconds) == (True, 250)
            await call.write(prefill(0))
            await computing.wait()
            for _ in range(10):
                await call.write(pb.FlowMessage())
                await asyncio.sleep(0.1)
            assert await call.read() == pb.FlowReply()  # its own beat
            silent_from = time.monotonic()
            error = await end_of(call)
            assert isinstance(error, Unavailable)
            assert "it was silent for 0." in error.detail
            assert 0.5 < time.monotonic() - silent_from < 3.0
        await wait_until(lambda: loaded.orphaned_since is not None)


async def test_a_ring_in_which_nothing_is_open_beats_seldom(tmp_path: Path, stages: TinyStages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "RESTS_AFTER_SECONDS", 0.1)
    async with one_stage(tmp_path, stages, 1) as stage, stage.flow(beat_milliseconds=1000) as call:
        await call.read()
        await call.write(pb.FlowMessage(beat_milliseconds=8000))
        while (reply := await call.read()) == pb.FlowReply():
            pass
        assert reply == pb.FlowReply(beat_milliseconds=2000)
        await call.write(prefill(0))
        async with asyncio.timeout(1.5):  # sooner than its next beat
            assert await call.read() == pb.FlowReply(beat_milliseconds=250)
            assert await call.read() == pb.FlowReply()


async def test_beats_of_whoever_announced_none_are_refused(tmp_path: Path, stages: TinyStages) -> None:
    async with one_stage(tmp_path, stages, 1) as stage, stage.accepted() as call:
        await call.write(pb.FlowMessage())
        assert isinstance(await end_of(call), InvalidInput)
