"""What must be done so that devices hold what is wanted: a pure function of both, so every action can be repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fleet.deploying.desired import Desired
from protos.ids import DeviceId, PipelineId
from protos.v1 import device_pb2 as pb


@dataclass(frozen=True)
class Held:
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


@dataclass(frozen=True)
class Load:
    """Bring what the stage needs, then load it."""

    device: DeviceId
    stage: int


@dataclass(frozen=True)
class Await:
    """Nothing can be done for this stage: its device is not there."""

    device: DeviceId
    stage: int


Action: TypeAlias = Unload | Load | Await


def held_by(description: pb.DeviceDescription) -> tuple[Held, ...]:
    return tuple(
        Held(
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


def reconcile(desired: Desired, observed: Mapping[DeviceId, Sequence[Held]]) -> list[Action]:
    """Actions for one deployment, unloads first: a device may be too small for the old stage and the new one together.

    `observed` has the devices that answer. Empty when all is as it should be.
    """
    unloads: list[Action] = list(stale(desired.name, desired.generation, observed, keep=desired))
    stages: list[Action] = []
    for number, device in enumerate(desired.devices):
        if device not in observed:
            stages.append(Await(device, number))
        elif not any(_fulfils(held, desired, number) for held in observed[device]):
            stages.append(Load(device, number))
    return unloads + stages


def stale(name: str, generation: int, observed: Mapping[DeviceId, Sequence[Held]], *, keep: Desired | None) -> list[Unload]:
    """Stages of deployment `name` up to `generation` that `keep` does not want. Newer ones are another coordinator's: left alone."""
    wanted = {device: number for number, device in enumerate(keep.devices)} if keep else {}
    return [
        Unload(device, name, generation, held.pipeline_id)
        for device, stages in sorted(observed.items())
        for held in stages
        if held.deployment == name
        and held.generation <= generation
        and not (keep and device in wanted and _fulfils(held, keep, wanted[device]))
    ]


def _fulfils(held: Held, desired: Desired, number: int) -> bool:
    return (
        held.pipeline_id == desired.pipeline_id
        and held.manifest_digest == desired.plan.manifest_digest
        and held.epoch == desired.epoch
        and held.stage == number
        and held.parts == frozenset(desired.plan.stages[number].parts)
    )
