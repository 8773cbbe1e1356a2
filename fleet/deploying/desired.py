"""What the coordinator wants a deployment to be."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.planning.plan import Plan, PlanRequest
from protos.ids import DeviceId, PipelineId


@dataclass(frozen=True)
class PipelineSpec:
    """One pipeline of a deployment: a plan in force."""

    pipeline_id: PipelineId
    epoch: int  # of the plan: stages refuse steps of another
    plan: Plan


@dataclass(frozen=True)
class Desired:
    """Pipelines in force under a name. Each change of a deployment takes the next generation: devices refuse older ones."""

    name: str
    generation: int
    pipelines: tuple[PipelineSpec, ...]
    request: PlanRequest | None = None  # what was asked, so that it can be planned again; None: stored by an older version

    @property
    def plan(self) -> Plan:
        """Of its only pipeline, as all below."""
        return self.pipelines[0].plan

    @property
    def epoch(self) -> int:
        return self.pipelines[0].epoch

    @property
    def pipeline_id(self) -> PipelineId:
        return self.pipelines[0].pipeline_id

    @property
    def devices(self) -> tuple[DeviceId, ...]:
        """By stage: the first is the head."""
        return tuple(DeviceId(stage.device_id) for stage in self.plan.stages)

    @property
    def slots(self) -> int:
        return self.plan.groups * self.plan.slots_per_group


def of_one_plan(name: str, generation: int, plan: Plan, request: PlanRequest | None = None) -> Desired:
    """One pipeline, named after the deployment and its generation; its plan never changes within that."""
    return Desired(name, generation, (PipelineSpec(PipelineId(f"{name}-{generation}"), generation, plan),), request)
