"""The stages a device holds: generations, replacement, memory, blobs that are missing, changed or in use."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device.agent import host as host_module
from device.agent.host import StageHost
from device.blobs import BlobStore
from device.cpu import CpuHardware
from device.engine.engine import Output
from device.pipeline.stage import Stage
from device.stage_spec import DeploymentGeneration, StageSpec
from protos.errors import Conflict, Corrupt, FleetError, InvalidInput, NoSpace, NotFound, Unavailable
from protos.ids import DeviceId, PipelineId
from protos.v1 import pipeline_pb2 as pb
from tests.support.checkpoints import TinyGlm
from tests.support.stage_specs import TinyStages, filled_store
from tests.support.waiting import wait_until

PIPELINE = PipelineId("test-1")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> TinyStages:
    return TinyStages.make(tmp_path_factory.mktemp("model"), TinyGlm(layers=2))


@pytest.fixture
def spec(stages: TinyStages) -> StageSpec:
    return stages.specs()[0]


@pytest.fixture
def blobs(tmp_path: Path, stages: TinyStages) -> BlobStore:
    return filled_store(stages, tmp_path / "blobs")


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.cpu.copy_bandwidth", lambda: 1.0)


@asynccontextmanager
async def hosting(blobs: BlobStore, memory_bytes: int = 1 << 30) -> AsyncIterator[StageHost]:
    hardware = CpuHardware(memory_bytes, 1)
    try:
        async with StageHost(DeviceId("me"), hardware, blobs, None) as host:
            yield host
    finally:
        hardware.close()


def at(spec: StageSpec, number: int, **changes: object) -> StageSpec:
    return replace(spec, generation=DeploymentGeneration("test", number), **changes)  # type: ignore[arg-type]


def attach(spec: StageSpec, **changes: object) -> pb.Attach:
    fields = {"pipeline_id": spec.pipeline, "manifest_digest": spec.manifest, "epoch": spec.epoch}
    return pb.Attach(**{**fields, **changes})  # type: ignore[arg-type]


async def test_the_device_s_work_outlives_the_stage_that_did_it(blobs: BlobStore, spec: StageSpec) -> None:
    async with hosting(blobs) as host:
        for number in (1, 2):
            await host.load(at(spec, number, epoch=number))
            (loaded,) = host.loaded
            message = pb.Microbatch(prefill=True, slots=[0], positions=[0], rows=2, opened=[pb.Opened(slot=0, sequence=1)])
            await loaded.stage.step(message, np.array([1, 2], np.int64))
            assert loaded.stage.counters.prefill_tokens == 2
            assert host.work.total.prefill_tokens == 2 * number
            await host.unload(DeploymentGeneration("test", number), PIPELINE)
        assert host.work.total.busy_seconds > 0


async def test_loading_the_same_again_is_nothing(blobs: BlobStore, spec: StageSpec) -> None:
    async with hosting(blobs) as host:
        assert await host.load(spec) > 0
        (loaded,) = host.loaded
        assert host.memory_used_bytes == spec.memory_bytes
        assert await host.load(replace(spec)) == 0
        assert host.loaded == [loaded]
        assert host.loaded[0].stage is loaded.stage
        (status,) = host.statuses()
        assert (status.pipeline_id, status.epoch, status.stage, status.memory_bytes) == ("test-1", 1, 0, spec.memory_bytes)
        assert (status.generation.deployment, status.generation.number) == ("test", 1)
    assert host.loaded == []
    assert host.memory_used_bytes == 0


async def test_a_neighbour_that_moved_is_no_reason_to_load_again(blobs: BlobStore, stages: TinyStages) -> None:
    (spec, _) = stages.specs(2)
    assert spec.next is not None
    async with hosting(blobs) as host:
        assert await host.load(spec) > 0
        (loaded,) = host.loaded
        moved = replace(spec, next=spec.next.led_by("[fe80::2]:7420"))
        assert await host.load(moved) == 0
        assert host.loaded == [loaded]
        assert loaded.stage.spec == moved
        later = at(moved, 7)  # another pipeline of its deployment was moved
        assert await host.load(later) == 0
        assert host.loaded == [loaded]
        assert loaded.stage.spec == later
        assert await host.load(replace(later, epoch=2)) > 0


async def test_older_generations_are_refused_whatever_they_ask(blobs: BlobStore, spec: StageSpec) -> None:
    async with hosting(blobs) as host:
        await host.load(at(spec, 5))
        for asked in (
            host.load(at(spec, 4)),
            host.unload(DeploymentGeneration("test", 4), PIPELINE),
            host.retain_blobs(DeploymentGeneration("test", 4), set()),
        ):
            with pytest.raises(Conflict, match="at generation 5 here; 4 is older"):
                await asked
        assert len(host.loaded) == 1
        await host.unload(DeploymentGeneration("another", 1), PipelineId("unknown"))  # of no concern to this deployment
        await host.unload(DeploymentGeneration("test", 6), PIPELINE)
        with pytest.raises(Conflict):
            await host.load(at(spec, 5))  # the unloading's word holds
        assert host.loaded == []


async def test_a_new_epoch_replaces_and_ends_the_old(blobs: BlobStore, spec: StageSpec) -> None:
    async with hosting(blobs, memory_bytes=spec.memory_bytes) as host:  # no room for both
        await host.load(spec)
        old = host.head_for(attach(spec))
        waiting = asyncio.create_task(old.stage.unloaded())
        newer = at(spec, 2, epoch=2)
        assert await host.load(newer) > 0
        with pytest.raises(Unavailable, match="unloaded"):
            await waiting
        assert host.memory_used_bytes == spec.memory_bytes
        assert host.head_for(attach(newer)) is not old
        with pytest.raises(Conflict, match="epoch 2 here, the call is for epoch 1"):
            host.head_for(attach(spec))


async def test_what_does_not_fit_leaves_what_is_there(blobs: BlobStore, spec: StageSpec) -> None:
    async with hosting(blobs, memory_bytes=2 * spec.memory_bytes - 1) as host:
        await host.load(spec)
        kept = host.loaded[0].stage
        bigger = replace(spec.shape, slots_per_group=512)
        for refused in (replace(spec, pipeline=PipelineId("second")), at(spec, 1, epoch=2, shape=bigger)):
            with pytest.raises(NoSpace, match=r"iB \(weights and KV cache\), .* more than is free") as error:
                await host.load(refused)
            assert error.value.advice
        assert [loaded.stage for loaded in host.loaded] == [kept]
        assert not kept.is_unloaded
        await host.load(at(spec, 1, epoch=2))


async def test_several_pipelines_side_by_side(blobs: BlobStore, spec: StageSpec) -> None:
    async with hosting(blobs) as host:
        await host.load(spec)
        await host.load(replace(spec, pipeline=PipelineId("second"), generation=DeploymentGeneration("other", 1)))
        assert host.memory_used_bytes == 2 * spec.memory_bytes
        await host.unload(DeploymentGeneration("test", 1), PIPELINE)
        await host.unload(DeploymentGeneration("test", 1), PIPELINE)
        assert [loaded.stage.spec.pipeline for loaded in host.loaded] == ["second"]


async def test_missing_and_changed_blobs(blobs: BlobStore, stages: TinyStages, spec: StageSpec) -> None:
    async with hosting(blobs) as host:
        digest = spec.blobs[0]
        (blobs.folder / digest).unlink()
        with pytest.raises(NotFound, match=digest[:12]):
            await host.load(spec)
        data = bytearray(stages.store.blob_path(digest).read_bytes())
        data[len(data) // 2] ^= 1
        (blobs.folder / digest).write_bytes(data)
        with pytest.raises(Corrupt):
            await host.load(spec)
        assert not blobs.has(digest)
        assert (host.loaded, host.memory_used_bytes) == ([], 0)
        shutil.copy(stages.store.blob_path(digest), blobs.folder / digest)
        await host.load(spec)


async def test_a_load_is_promised_while_it_goes_on(blobs: BlobStore, spec: StageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    promised: list[int] = []
    async with hosting(blobs) as host:
        build = host._build

        def told(loading: StageSpec) -> tuple[Stage, Output | None]:
            promised.append(host.memory_used_bytes)
            return build(loading)

        monkeypatch.setattr(host, "_build", told)
        await host.load(at(spec, 1))
        with pytest.raises(InvalidInput):
            await host.load(at(spec, 2, graph=b"no graph", pipeline=PipelineId("test-2")))
        assert promised == [spec.memory_bytes, 2 * spec.memory_bytes]
        assert host.memory_used_bytes == spec.memory_bytes


async def test_a_graph_that_does_not_run_leaves_nothing(blobs: BlobStore, spec: StageSpec) -> None:
    async with hosting(blobs) as host:
        broken = (replace(spec, graph=b"\x01\x02"), replace(spec, head_graph=b"\xff" * 50), replace(spec, graph=spec.head_graph))
        for each in broken:
            with pytest.raises(InvalidInput):
                await host.load(each)
        assert (host.loaded, host.memory_used_bytes) == ([], 0)
        await host.load(spec)


async def test_retain_keeps_what_is_loaded_and_what_is_loading(blobs: BlobStore, spec: StageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    (blobs.folder / ("0" * 64)).write_bytes(b"12345")
    async with hosting(blobs) as host:
        order: list[str] = []
        verify = blobs.verify
        monkeypatch.setattr(blobs, "verify", lambda digest: (verify(digest), order.append("verified")))
        retain = blobs.retain
        monkeypatch.setattr(blobs, "retain", lambda keep: (order.append("retained"), retain(keep))[1])
        _, freed = await asyncio.gather(host.load(spec), host.retain_blobs(DeploymentGeneration("test", 1), set()))
        assert order == ["verified"] * len(spec.blobs) + ["retained"]
        assert all(blobs.has(digest) for digest in spec.blobs)
        assert freed >= 5
        await host.unload(DeploymentGeneration("test", 1), PIPELINE)
        await host.retain_blobs(DeploymentGeneration("test", 1), {spec.blobs[0]})
        assert [path.name for path in blobs.folder.iterdir()] == [spec.blobs[0]]


async def test_a_cancelled_load_lets_nobody_in_before_its_thread_ended(
    blobs: BlobStore, spec: StageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosting(blobs) as host:
        building, finished = asyncio.Event(), []
        loop, build = asyncio.get_running_loop(), host._build

        def watched(spec: StageSpec) -> object:
            loop.call_soon_threadsafe(building.set)
            result = build(spec)
            finished.append(True)
            return result

        monkeypatch.setattr(host, "_build", watched)
        load = asyncio.create_task(host.load(spec))
        await building.wait()
        load.cancel()
        await asyncio.wait([load])
        assert load.cancelled()
        assert finished == [True]
        assert host.loaded == []
        await host.load(spec)


async def test_streams_find_their_stage_or_are_told_why_not(blobs: BlobStore, stages: TinyStages) -> None:
    first, second = stages.specs(2)
    async with hosting(blobs) as host:
        await host.load(second)

        def opening(**changes: object) -> pb.FlowOpen:
            fields = {"pipeline_id": second.pipeline, "manifest_digest": second.manifest, "epoch": 1, "to_stage": 1}
            return pb.FlowOpen(**{**fields, **changes})  # type: ignore[arg-type]

        assert host.stage_for(opening()).stage.spec == second
        wrong: list[tuple[dict[str, object], type[FleetError]]] = [
            ({"pipeline_id": "x"}, NotFound),
            ({"manifest_digest": "x"}, Conflict),
            ({"epoch": 2}, Conflict),
            ({"to_stage": 0}, Conflict),
        ]
        for changes, error in wrong:
            with pytest.raises(error):
                host.stage_for(opening(**changes))
        with pytest.raises(Conflict, match="not the head"):
            host.head_for(attach(first))


async def test_orphans_are_freed_after_their_time(blobs: BlobStore, stages: TinyStages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "ORPHAN_SECONDS", 0.05)
    async with hosting(blobs) as host:
        await host.load(stages.specs(2)[1])
        stage = host.loaded[0].stage
        await stage.join_ring("one")
        await stage.step(pb.Microbatch(opened=[pb.Opened(slot=0, sequence=1, key=b"k")]))
        stage.leave_ring()
        assert (stage.open_sequences, len(stage.kept)) == (0, 1)
        await wait_until(lambda: not len(stage.kept))
        assert stage.orphaned_since is None
