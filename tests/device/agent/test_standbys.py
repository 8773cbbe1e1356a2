"""Stages that a device keeps beside its rings: loaded once, counted, and put into a ring without being loaded again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device.agent.host import StageHost
from device.blobs import BlobStore
from device.cpu import CpuHardware
from device.engine.engine import Output
from device.pipeline.kept import KeptRows
from device.pipeline.stage import Stage
from device.stage_spec import DeploymentGeneration, PreviousHop, StageSpec
from protos.errors import Conflict, NoSpace, NotFound, Unavailable
from protos.ids import DeviceId, PipelineId
from protos.v1 import pipeline_pb2 as pb
from tests.support.checkpoints import TinyGlm
from tests.support.stage_specs import TinyStages, filled_store

PIPELINE = PipelineId("test-1")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> TinyStages:
    return TinyStages.make(tmp_path_factory.mktemp("model"), TinyGlm(layers=2))


@pytest.fixture
def specs(stages: TinyStages) -> list[StageSpec]:
    return list(stages.specs(2))


class Host(StageHost):
    """Counts what is built: weights that are read and packed."""

    built = 0

    def _build(self, spec: StageSpec) -> tuple[Stage, Output | None]:
        self.built += 1
        return super()._build(spec)


@pytest.fixture
async def host(tmp_path: Path, stages: TinyStages, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    monkeypatch.setattr("device.cpu.copy_bandwidth", lambda: 1.0)
    blobs: BlobStore = filled_store(stages, tmp_path / "blobs")
    hardware = CpuHardware(1 << 30, 1)
    try:
        host = Host(DeviceId("me"), hardware, blobs, None)
        async with host:
            yield host
    finally:
        hardware.close()


def later(spec: StageSpec, number: int) -> StageSpec:
    """As its ring is built anew, with another neighbour before it."""
    generation = DeploymentGeneration("test", number)
    return replace(spec, generation=generation, epoch=number, previous=PreviousHop(DeviceId(f"before-{number}")))


def attach(spec: StageSpec) -> pb.Attach:
    return pb.Attach(pipeline_id=spec.pipeline, manifest_digest=spec.manifest, epoch=spec.epoch)


async def test_a_standby_enters_its_ring_without_being_loaded_again(host: Host, specs: list[StageSpec]) -> None:
    head, tail = specs
    for spec in specs:
        assert await host.load(spec, standby=True) > 0
        assert await host.load(spec, standby=True) == 0
    assert (host.built, host.loaded) == (2, [])
    assert [(status.stage, status.standby) for status in host.statuses()] == [(0, True), (1, True)]
    with pytest.raises(NotFound):  # no ring reaches it
        host.head_for(attach(head))
    assert await host.load(later(head, 2)) > 0
    assert host.built == 2
    assert host.head_for(attach(later(head, 2))).stage.spec == later(head, 2)
    # The other stage would never be wanted here as well: a device is in a ring once.
    assert [(status.stage, status.standby, status.epoch) for status in host.statuses()] == [(0, False, 2)]
    assert host.memory_used_bytes == head.memory_bytes
    assert tail.pipeline == head.pipeline


async def test_those_that_stay_keep_their_weights_and_rows(host: Host, specs: list[StageSpec]) -> None:
    spec = specs[0]
    await host.load(spec)
    before = host.head_for(attach(spec))
    for slot, key in ((0, b""), (1, b"asked again")):  # nobody knows the first of them by another ring
        opened = [pb.Opened(slot=slot, sequence=1 + slot, key=key)]
        message = pb.Microbatch(prefill=True, slots=[slot], positions=[0], rows=2, opened=opened)
        await host.loaded[0].stage.step(message, np.array([1, 2], np.int64))
    ended = asyncio.create_task(before.stage.unloaded())
    assert await host.load(later(spec, 2)) > 0
    assert host.built == 1
    with pytest.raises(Unavailable):
        await ended
    with pytest.raises(Conflict, match="at epoch 2 here"):
        host.head_for(attach(spec))
    (now,) = host.loaded
    assert now.stage.open_sequences == 0
    assert now.stage.engine is before.stage.engine
    assert await now.stage.join_ring("another") == (KeptRows(b"asked again", 0, 1, 2),)
    assert now.stage.engine.groups[0].lengths[:2] == [0, 2]
    assert now.stage.counters.prefill_tokens == 4  # counters only ever grow


async def test_it_takes_memory_and_keeps_its_blobs(host: Host, specs: list[StageSpec]) -> None:
    head, tail = specs
    await host.load(head, standby=True)
    assert host.memory_used_bytes == head.memory_bytes
    assert await host.retain_blobs(head.generation, set()) > 0  # of the other stage
    assert await host.load(later(head, 2)) > 0
    assert host.built == 1
    with pytest.raises(NotFound):
        await host.load(later(tail, 2), standby=True)
    huge = replace(head.shape, slots_per_group=1 << 20)
    with pytest.raises(NoSpace):
        await host.load(replace(later(head, 3), stage=0, shape=huge), standby=True)
    assert len(host.loaded) == 1


async def test_another_shape_is_loaded_anew(host: Host, specs: list[StageSpec]) -> None:
    head = specs[0]
    await host.load(head, standby=True)
    wider = replace(later(head, 2), shape=replace(head.shape, slots_per_group=head.shape.slots_per_group + 2))
    await host.load(wider)
    assert host.built == 2
    assert [(status.stage, status.standby) for status in host.statuses()] == [(0, False)]


async def test_unloading_takes_standbys_too(host: Host, specs: list[StageSpec]) -> None:
    for spec in specs:
        await host.load(spec, standby=True)
    await host.unload(DeploymentGeneration("test", 5), PIPELINE)
    assert (host.statuses(), host.memory_used_bytes) == ([], 0)
