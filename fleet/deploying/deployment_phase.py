"""The state of a deployment, and which stages must go: a pure function of what is wanted, its pipelines, and what devices hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fleet.deploying.desired import Desired
from fleet.deploying.phase import PipelineState, Ready
from fleet.deploying.reconcile import Observed, Unload, stale


@dataclass(frozen=True)
class WantedDeployment:
    """What is wanted under a name. `desired` None: no more. `coming`: the generation that is being brought about, 0 for none.

    `generation`: the highest that was stored here; 0: never one, so that its stages are another coordinator's. `unreadable`: what is stored
    cannot be read.
    """

    name: str
    generation: int
    desired: Desired | None = None
    coming: int = 0
    unreadable: bool = False


@dataclass(frozen=True)
class Deploying:
    """A generation of it is being brought about."""

    detail: str = ""


@dataclass(frozen=True)
class AllReady:
    """Every pipeline answers."""

    detail: str = ""


@dataclass(frozen=True)
class Degraded:
    """At least one pipeline does not answer."""

    detail: str


@dataclass(frozen=True)
class Untouched:
    """It cannot be read, and stays as it is."""

    detail: str = ""


@dataclass(frozen=True)
class Gone:
    """Nobody wants it."""

    detail: str = ""


DeploymentState: TypeAlias = Deploying | AllReady | Degraded | Untouched | Gone


@dataclass(frozen=True)
class DeploymentPhase:
    state: DeploymentState
    unloads: tuple[Unload, ...] = ()


def deployment_phase(wanted: WantedDeployment, pipelines: Sequence[PipelineState], held: Observed) -> DeploymentPhase:
    """`pipelines`: the states of those that are desired, in order. `held`: of the devices that answer."""
    state = _state(wanted, pipelines)
    if isinstance(state, Deploying | Untouched):
        return DeploymentPhase(state)
    # Generations begin at 1: of a name that was never stored here nothing goes.
    keep = wanted.desired.pipelines if wanted.desired else ()
    return DeploymentPhase(state, tuple(stale(wanted.name, wanted.generation, held, keep=keep)))


def _state(wanted: WantedDeployment, pipelines: Sequence[PipelineState]) -> DeploymentState:
    if wanted.coming:
        answers = wanted.desired is not None and wanted.desired.generation != wanted.coming
        return Deploying(f"generation {wanted.generation} answers while generation {wanted.coming} is sent" if answers else "")
    if wanted.unreadable:
        return Untouched()
    if wanted.desired is None:
        return Gone()
    return _of_pipelines({spec.pipeline_id: state for spec, state in zip(wanted.desired.pipelines, pipelines, strict=True)})


def _of_pipelines(pipelines: Mapping[str, PipelineState]) -> AllReady | Degraded:
    lame = {name: state for name, state in pipelines.items() if not isinstance(state, Ready)}
    if not lame:
        return AllReady()
    if len(pipelines) == 1:
        return Degraded(next(iter(lame.values())).detail)
    details = "; ".join(f"{name}: {state.detail}" for name, state in lame.items())
    return Degraded(f"{len(pipelines) - len(lame)} of {len(pipelines)} pipelines answer; {details}")
