"""What the API and the command show of deployments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fleet.planning.plan import Plan, StagePlan

# unreadable: stored by another version; of it only its name and generation are known, and nothing of it is touched.
DeploymentState = Literal["deploying", "ready", "degraded", "unreadable"]


@dataclass(frozen=True)
class DeployEvent:
    """One step of a deployment; `kind` says which fields hold something."""

    kind: Literal["plan", "push", "load", "ready"]
    plan: Plan | None = None
    device_name: str = ""
    done_bytes: int = 0  # push: of what has to be sent to this device
    total_bytes: int = 0
    seconds: float = 0.0
    deployment: str = ""


@dataclass(frozen=True)
class DeploymentView:
    name: str
    model: str
    manifest_digest: str
    state: DeploymentState
    detail: str
    stages: tuple[StagePlan, ...]
    context: int
    slots: int
    generation: int
