"""What devices hold against what is wanted: pure functions of both, so every action can be repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fleet.deploying.desired import PipelineSpec
from protos.ids import DeviceId, PipelineId
from protos.v1 import device_pb2 as pb


@dataclass(frozen=True)
class HeldStage:
    """A stage that a device says it holds."""

    deployment: str
    generation: int
    pipeline_id: PipelineId
    manifest_digest: str
    epoch: int
    stage: int
    parts: frozenset[str]
    memory_bytes: int


@dataclass(frozen=True)
class Unload:
    """A stage that nothing wants; `generation` is one that the device will accept."""

    device: DeviceId
    deployment: str
    generation: int
    pipeline_id: PipelineId


Observed: TypeAlias = Mapping[DeviceId, Sequence[HeldStage]]  # what the devices that answer hold


def held_by(description: pb.DeviceDescription) -> tuple[HeldStage, ...]:
    return tuple(
        HeldStage(
            deployment=stage.generation.deployment,
            generation=stage.generation.number,
            pipeline_id=PipelineId(stage.pipeline_id),
            manifest_digest=stage.manifest_digest,
            epoch=stage.epoch,
            stage=stage.stage,
            parts=frozenset(stage.parts),
            memory_bytes=stage.memory_bytes,
        )
        for stage in description.stages
    )


def stale(name: str, generation: int, observed: Observed, *, keep: Sequence[PipelineSpec] = ()) -> list[Unload]:
    """Stages of deployment `name` up to `generation` that are none of `keep`'s. Newer ones are another coordinator's: left alone."""
    return [
        Unload(device, name, generation, held.pipeline_id)
        for device, stages in sorted(observed.items())
        for held in stages
        if held.deployment == name and held.generation <= generation and not _kept(device, held, keep)
    ]


def holds(stages: Sequence[HeldStage], spec: PipelineSpec, number: int) -> bool:
    """Whether these stages of a device fulfil stage `number` of the pipeline."""
    return any(_fulfils(held, spec, number) for held in stages)


def _kept(device: DeviceId, held: HeldStage, keep: Sequence[PipelineSpec]) -> bool:
    return any(_fulfils(held, spec, number) for spec in keep for number, its in enumerate(spec.devices) if its == device)


def _fulfils(held: HeldStage, spec: PipelineSpec, number: int) -> bool:
    return (
        held.pipeline_id == spec.pipeline_id
        and held.manifest_digest == spec.plan.manifest_digest
        and held.epoch == spec.epoch
        and held.stage == number
        and held.parts == frozenset(spec.plan.stages[number].parts)
    )
