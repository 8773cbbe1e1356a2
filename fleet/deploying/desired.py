"""What the coordinator wants a deployment to be, and its form in the store."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from fleet.planning.plan import Plan, StagePlan
from protos.errors import Corrupt
from protos.ids import DeviceId, PipelineId


@dataclass(frozen=True)
class Desired:
    """A plan in force under a name. Each change of a deployment takes the next generation: devices refuse older ones."""

    name: str
    generation: int
    plan: Plan

    @property
    def epoch(self) -> int:
        """Of the plan. A plan never changes within a generation."""
        return self.generation

    @property
    def pipeline_id(self) -> PipelineId:
        """Of its only replica."""
        return PipelineId(f"{self.name}-{self.generation}")

    @property
    def devices(self) -> tuple[DeviceId, ...]:
        """By stage: the first is the head."""
        return tuple(DeviceId(stage.device_id) for stage in self.plan.stages)

    @property
    def slots(self) -> int:
        return self.plan.groups * self.plan.slots_per_group

    def to_json(self) -> str:
        return json.dumps({"plan": dataclasses.asdict(self.plan)}, sort_keys=True)


def from_json(name: str, generation: int, text: str) -> Desired:
    """Raises Corrupt."""
    try:
        plain = json.loads(text)["plan"]
        stages = tuple(StagePlan(**{**stage, "parts": tuple(stage["parts"])}) for stage in plain["stages"])
        return Desired(name, generation, Plan(**{**plain, "stages": stages, "why": tuple(plain["why"])}))
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            f"the stored deployment {name} cannot be read: {' '.join(str(error).split())[:100]}", advice=f"glmfleet undeploy {name}"
        ) from error
