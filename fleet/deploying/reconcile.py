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
    standby: bool = False  # of no ring


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
            standby=stage.standby,
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
    return any(held.epoch == spec.epoch and not held.standby and _is(held, spec, number) for held in stages)


def keeps_ready(stages: Sequence[HeldStage], spec: PipelineSpec, number: int) -> bool:
    """Whether these stages of a device are enough to take over stage `number` of the pipeline at once."""
    return any(held.standby and _is(held, spec, number) for held in stages)


def _kept(device: DeviceId, held: HeldStage, keep: Sequence[PipelineSpec]) -> bool:
    """Of whatever epoch: a load under the new one finds the weights there. A standby that has just got its place in a ring still holds it
    as one, and gives up the others by itself when it enters."""
    for spec in keep:
        if device in spec.devices:
            places = range(len(spec.devices)) if held.standby else [spec.devices.index(device)]
        else:
            covers = (one.covers for one in spec.plan.standbys if one.device_id == device and held.standby)
            places = [covered.stage for its in covers for covered in its]
        if any(_is(held, spec, number) for number in places):
            return True
    return False


def _is(held: HeldStage, spec: PipelineSpec, number: int) -> bool:
    return (
        held.pipeline_id == spec.pipeline_id
        and held.manifest_digest == spec.plan.manifest_digest
        and held.stage == number
        and held.parts == frozenset(spec.plan.stages[number].parts)
    )
