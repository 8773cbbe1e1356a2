"""The form in which a deployment is stored."""

from __future__ import annotations

import dataclasses
import json

from fleet.deploying.desired import Desired, PipelineSpec
from fleet.planning.plan import Plan, PlanRequest, StagePlan
from protos.errors import Corrupt
from protos.ids import PipelineId


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A deployment whose stored form, `text`, this version does not understand: known, shown, and left as it is. `why` is one line."""

    name: str
    generation: int
    why: str
    text: str = ""


def write(desired: Desired) -> str:
    pipelines = [
        {"pipeline_id": spec.pipeline_id, "epoch": spec.epoch, "plan": dataclasses.asdict(spec.plan)} for spec in desired.pipelines
    ]
    request = None if desired.request is None else dataclasses.asdict(desired.request)
    return json.dumps({"form": 2, "pipelines": pipelines, "request": request}, sort_keys=True)


def read(name: str, generation: int, text: str) -> Desired | Unreadable:
    try:
        plain = json.loads(text)
        request = plain.get("request")
        specs = tuple(PipelineSpec(PipelineId(one["pipeline_id"]), one["epoch"], _plan(one["plan"])) for one in plain["pipelines"])
        return Desired(name, generation, specs, PlanRequest(**{**request, "devices": tuple(request["devices"])}) if request else None)
    except (ValueError, KeyError, TypeError, AttributeError, Corrupt) as error:
        return Unreadable(name, generation, " ".join(str(error).split())[:100], text)


def _plan(plain: dict[str, object]) -> Plan:
    stages = tuple(StagePlan(**{**stage, "parts": tuple(stage["parts"])}) for stage in plain["stages"])  # type: ignore[attr-defined]
    return Plan(**{**plain, "stages": stages, "why": tuple(plain["why"])})  # type: ignore[arg-type]
