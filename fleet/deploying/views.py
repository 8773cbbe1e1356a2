"""What the API and the command show of deployments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fleet.deploying.deployment_phase import AllReady, WantedDeployment, deployment_phase
from fleet.deploying.desired import Desired, PipelineSpec
from fleet.deploying.phase import Attaching, PipelineState, Ready, Repairing, Waiting
from fleet.deploying.stored import Unreadable
from fleet.planning.plan import Objective, Pause, Plan, StagePlan
from protos.decoding import DecodeMode

PipelineStateName = Literal["deploying", "ready", "waiting", "repairing", "attaching"]
StandbyStateName = Literal["ready", "preparing", "away"]

_NAMES: dict[type[PipelineState], PipelineStateName] = {
    Ready: "ready",
    Waiting: "waiting",
    Repairing: "repairing",
    Attaching: "attaching",
}


@dataclass(frozen=True)
class DeployEvent:
    """One step of a deployment; `kind` says which fields hold something. There is a plan for each pipeline."""

    kind: Literal["plan", "push", "load", "ready"]
    plan: Plan | None = None
    device_name: str = ""
    done_bytes: int = 0  # push: of what has to be sent to this device
    total_bytes: int = 0
    seconds: float = 0.0
    deployment: str = ""


@dataclass(frozen=True)
class StandbyView:
    """A device that keeps these stages of a pipeline loaded: `ready` to take over, `preparing` some of them, or `away`."""

    device_id: str
    device_name: str
    stages: tuple[int, ...]
    state: StandbyStateName
    detail: str = ""  # why it is not ready, one line


@dataclass(frozen=True)
class PipelineView:
    """One pipeline of a deployment: devices that hold a model together. `waiting` for a device, `repairing` a stage that was lost."""

    pipeline_id: str
    state: PipelineStateName
    detail: str  # why it is not ready, one line
    model: str
    manifest_digest: str
    epoch: int
    stages: tuple[StagePlan, ...]
    standbys: tuple[StandbyView, ...] = ()
    pauses: tuple[Pause, ...] = ()  # predicted, where a standby covers a stage
    # Of its plan: what was wished, what was predicted of one stream, and why it is so.
    objective: Objective = "latency"
    decode: DecodeMode = "rows"
    decode_tokens_per_second: float = 0.0
    joules_per_token: float | None = None
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeploymentView:
    """`standby`: so many devices are to stand by, and `standby_detail` says in one line why there are fewer.

    `stages`, `model`, `context` are those of the first pipeline; `slots` those of all. `unreadable`: stored by another version of
    this program, and left as it is."""

    name: str
    model: str
    manifest_digest: str
    state: Literal["deploying", "ready", "degraded", "unreadable"]
    detail: str
    stages: tuple[StagePlan, ...]
    context: int
    slots: int
    generation: int
    pipelines: tuple[PipelineView, ...] = ()
    standby: int = 0
    standby_detail: str = ""
    replan_after_seconds: float | None = None  # as Policy has them
    exact_within_seconds: float | None = None


def deploying_view(desired: Desired, in_force: Desired | None) -> DeploymentView:
    """`in_force`: the generation that answers meanwhile."""
    shown = in_force or desired
    state = deployment_phase(WantedDeployment(desired.name, shown.generation, in_force, coming=desired.generation), (), {}).state
    return _view(shown, "deploying", state.detail, [_pipeline(spec, "deploying", "") for spec in shown.pipelines])


def in_force_view(
    desired: Desired, states: Sequence[PipelineState], standbys: Sequence[tuple[StandbyView, ...]] = (), lacking: str = ""
) -> DeploymentView:
    """`states` and `standbys` are those of its pipelines, in order; `lacking`: why there are fewer standbys than there are to be."""
    pairs = list(zip(desired.pipelines, states, standbys or [()] * len(states), strict=True))
    of_all = deployment_phase(WantedDeployment(desired.name, desired.generation, desired), states, {}).state
    name: Literal["ready", "degraded"] = "ready" if isinstance(of_all, AllReady) else "degraded"
    pipelines = [_pipeline(spec, _NAMES[type(state)], state.detail, its) for spec, state, its in pairs]
    return _view(desired, name, of_all.detail, pipelines, lacking)


def unreadable_view(one: Unreadable) -> DeploymentView:
    detail = f"what is stored of it cannot be read ({one.why}); its stages stay on the devices: {what_to_do(one)}"
    return DeploymentView(one.name, "", "", "unreadable", detail, (), 0, 0, one.generation)


def users_of(device: str, views: Sequence[DeploymentView]) -> list[str]:
    """The names of the deployments whose pipelines use it."""
    return [view.name for view in views if any(stage.device_id == device for one in view.pipelines for stage in one.stages)]


def what_to_do(one: Unreadable) -> str:
    return f"go back to the version that stored it, deploy it anew with --name {one.name}, or take it down: glmfleet undeploy {one.name}"


def _view(
    desired: Desired, state: Literal["deploying", "ready", "degraded"], detail: str, pipelines: Sequence[PipelineView], lacking: str = ""
) -> DeploymentView:
    first = desired.pipelines[0]
    return DeploymentView(
        name=desired.name,
        model=first.plan.model,
        manifest_digest=first.plan.manifest_digest,
        state=state,
        detail=detail,
        stages=first.plan.stages,
        context=first.plan.context,
        slots=sum(spec.slots for spec in desired.pipelines),
        generation=desired.generation,
        pipelines=tuple(pipelines),
        standby=desired.policy.standby,
        replan_after_seconds=desired.policy.replan_after_seconds,
        exact_within_seconds=desired.policy.exact_within_seconds,
        standby_detail=lacking,
    )


def _pipeline(spec: PipelineSpec, state: PipelineStateName, detail: str, standbys: tuple[StandbyView, ...] = ()) -> PipelineView:
    plan = spec.plan
    return PipelineView(
        pipeline_id=spec.pipeline_id,
        state=state,
        detail=detail,
        model=plan.model,
        manifest_digest=plan.manifest_digest,
        epoch=spec.epoch,
        stages=plan.stages,
        standbys=standbys,
        pauses=plan.pauses,
        objective=plan.objective,
        decode=plan.decode,
        decode_tokens_per_second=plan.decode_tokens_per_second,
        joules_per_token=plan.joules_per_token,
        why=plan.why,
    )
