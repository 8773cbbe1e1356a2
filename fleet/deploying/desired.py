"""What the coordinator wants a deployment to be: pipelines, each with a plan in force."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fleet.planning.plan import Plan, PlanRequest
from fleet.planning.standby import moved, without
from protos.errors import InvalidInput
from protos.ids import DeviceId, PipelineId

# A board that restarts is back within a minute; moving its layers takes as long as sending them.
REPLAN_AFTER_SECONDS = 60.0


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_name(name: str) -> None:
    """Raises InvalidInput for one that no deployment may have."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"not a deployment name: {name[:80]!r}", advice="use up to 64 of a-z, 0-9, '.', '_' and '-'")


@dataclass(frozen=True)
class Policy:
    """What becomes of a deployment by itself. `replan_after_seconds`: a pipeline that lacks a device for so long is planned anew over the
    devices there are; None: never. `standby`: so many spare devices keep stages loaded, to take over from one that is lost.

    An answer whose ring broke is decoded again, which is exact, as long as that is predicted to take at most `exact_within_seconds`.
    Beyond, what no stage has kept of it is prefilled: that takes less, and may change what follows by rounding. None: it is always exact.
    """

    replan_after_seconds: float | None = REPLAN_AFTER_SECONDS
    standby: int = 0
    exact_within_seconds: float | None = None

    def most_replayed(self, plan: Plan) -> int | None:
        """So many tokens of an answer are decoded again; None: all."""
        seconds = self.exact_within_seconds
        if plan.decode == "pairs":  # they are prefilled, which gives the same rows
            return None
        return None if seconds is None else int(seconds * plan.decode_tokens_per_second)


DEFAULT_POLICY = Policy()


@dataclass(frozen=True)
class PipelineSpec:
    """One pipeline of a deployment: a plan in force, on devices of its own.

    `epoch` is that of the stages' places: a stage refuses the steps of another. When a standby takes a stage over it becomes the
    deployment's generation of then, and the pipeline keeps its id.
    """

    pipeline_id: PipelineId
    epoch: int
    plan: Plan

    @property
    def ring(self) -> tuple[PipelineId, int]:
        """Specs that have it in common place the same stages on the same devices; only their standbys may be others."""
        return self.pipeline_id, self.epoch

    @property
    def devices(self) -> tuple[DeviceId, ...]:
        """By stage: the first is the head."""
        return tuple(DeviceId(stage.device_id) for stage in self.plan.stages)

    @property
    def device_names(self) -> dict[str, str]:
        """By device id."""
        return {stage.device_id: stage.device_name for stage in self.plan.stages}

    @property
    def slots(self) -> int:
        """Sequences at once."""
        return self.plan.groups * self.plan.slots_per_group


@dataclass(frozen=True)
class Desired:
    """A deployment: pipelines under a name. Each change takes the next generation; devices refuse older ones.

    Pipelines may hold different versions of a model at a time. `request` is what was asked for each of them, so that it can be planned
    again; None where an older version of this program stored the deployment.
    """

    name: str
    generation: int
    pipelines: tuple[PipelineSpec, ...]
    request: PlanRequest | None = None
    policy: Policy = DEFAULT_POLICY

    @property
    def devices(self) -> tuple[DeviceId, ...]:
        """Of all pipelines, each once."""
        return tuple(dict.fromkeys(device for spec in self.pipelines for device in spec.devices))

    @property
    def standbys(self) -> tuple[DeviceId, ...]:
        """Of all pipelines, each once."""
        return tuple(dict.fromkeys(DeviceId(one.device_id) for spec in self.pipelines for one in spec.plan.standbys))

    @property
    def models(self) -> frozenset[str]:
        return frozenset(spec.plan.model for spec in self.pipelines)


def new_desired(
    name: str, generation: int, plans: tuple[Plan, ...], request: PlanRequest | None, policy: Policy = DEFAULT_POLICY
) -> Desired:
    """Pipelines for these plans, all new: their ids and epochs are those of `generation`."""
    specs = tuple(_new_spec(name, generation, replica, plan) for replica, plan in enumerate(plans))
    return Desired(name, generation, specs, request, policy)


def with_plans(desired: Desired, generation: int, plans: Mapping[PipelineId, Plan]) -> Desired:
    """The next generation, in which new pipelines by these plans stand in the place of those named; the others stay as they are."""
    used = {stage.device_id for plan in plans.values() for stage in plan.stages}
    specs = tuple(
        _new_spec(desired.name, generation, replica, plans[spec.pipeline_id])
        if spec.pipeline_id in plans
        else replace(spec, plan=without(spec.plan, used))
        for replica, spec in enumerate(desired.pipelines)
    )
    return replace(desired, generation=generation, pipelines=specs)


def with_stages_moved(desired: Desired, generation: int, pipeline: PipelineId, moves: Mapping[int, DeviceId]) -> Desired:
    """The next generation, in which standbys have taken over stages of a pipeline: they are standbys of none any more."""
    specs = []
    for spec in desired.pipelines:
        plan, epoch = spec.plan, spec.epoch
        for stage, device in moves.items():
            plan = moved(plan, stage, device) if spec.pipeline_id == pipeline else without(plan, {device})
        specs.append(replace(spec, plan=plan, epoch=generation if spec.pipeline_id == pipeline else epoch))
    return replace(desired, generation=generation, pipelines=tuple(specs))


def with_new_standbys(desired: Desired, generation: int, plans: tuple[Plan, ...]) -> Desired:
    """The next generation, in which the pipelines have these plans: theirs, but for the standbys."""
    specs = tuple(replace(spec, plan=plan) for spec, plan in zip(desired.pipelines, plans, strict=True))
    return replace(desired, generation=generation, pipelines=specs)


def _new_spec(name: str, generation: int, replica: int, plan: Plan) -> PipelineSpec:
    return PipelineSpec(_pipeline_id(name, generation, replica), generation, plan)


def _pipeline_id(name: str, generation: int, replica: int) -> PipelineId:
    return PipelineId(f"{name}-{generation}" if replica == 0 else f"{name}-{generation}.{replica}")
