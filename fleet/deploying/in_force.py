"""The deployments that are in force, with their pipelines: made, replaced and closed as what is wanted changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fleet.background import Background, to_its_end, together
from fleet.deploying.desired import Desired, PipelineSpec
from fleet.deploying.phase import Ready
from fleet.deploying.pipeline import Pipeline
from fleet.devices.registry import Registry
from protos.ids import DeviceId


@dataclass(frozen=True)
class InForce:
    """A deployment that is wanted, with its pipelines."""

    desired: Desired
    pipelines: tuple[Pipeline, ...]

    @property
    def answers(self) -> bool:
        return any(isinstance(pipeline.state, Ready) for pipeline in self.pipelines)

    def kept_by(self, desired: Desired) -> list[Pipeline]:
        """Pipelines that are wanted there as they are, but perhaps for their standbys."""
        return [pipeline for pipeline in self.pipelines if is_wanted(pipeline, desired)]


class Enforced:
    """By name. Used on the event loop."""

    def __init__(self, registry: Registry, background: Background, changed: Callable[[], None]) -> None:
        """`changed` as of Pipeline."""
        self._registry = registry
        self._background = background
        self._changed = changed
        self.deployments: dict[str, InForce] = {}

    def enforce(self, desired: Desired, kept: Sequence[Pipeline] = ()) -> InForce:
        """From now on, keep it up. Pipelines that are `kept` go on under the new generation."""
        running, specs = {pipeline.spec.ring: pipeline for pipeline in kept}, {spec.ring: spec for spec in desired.pipelines}
        for pipeline in kept:
            pipeline.desired, pipeline.spec = desired, specs[pipeline.spec.ring]
        pipelines = tuple(running.get(spec.ring) or self._pipeline(desired, spec) for spec in desired.pipelines)
        self.deployments[desired.name] = deployment = InForce(desired, pipelines)
        return deployment

    async def retire(self, deployment: InForce, kept: Sequence[Pipeline] = ()) -> None:
        """Close its pipelines but those that are `kept`: they alone answer for it now."""
        desired = deployment.desired
        if kept:
            specs = tuple(pipeline.spec for pipeline in kept)
            self.deployments[desired.name] = InForce(replace(desired, pipelines=specs), tuple(kept))
        elif self.deployments.get(desired.name) is deployment:
            del self.deployments[desired.name]
        await close(without(deployment.pipelines, kept))

    def settles(self, model: str | None) -> bool:
        """Whether a pipeline of this deployment or model has just got a device in the place of another, and does not answer yet."""
        now = asyncio.get_running_loop().time()
        meant = [one for one in self.deployments.values() if model in (None, one.desired.name, *one.desired.models)]
        return any(now < one.settles_until and not isinstance(one.state, Ready) for its in meant for one in its.pipelines)

    def stays_on(self, device: DeviceId) -> list[str]:
        """What is still wanted of a device, and why it has not moved: a line for each pipeline."""
        found = []
        for deployment in self.deployments.values():
            for pipeline in deployment.pipelines:
                if device in pipeline.spec.devices:
                    failure = pipeline.history.replan_failure
                    why = f"cannot be moved: {failure.detail}" if failure else "is being moved"
                    found.append(f"stage {pipeline.spec.devices.index(device)} of {pipeline.spec.pipeline_id} {why}")
                elif any(one.device_id == device for one in pipeline.spec.plan.standbys):
                    found.append(f"it stands by for {pipeline.spec.pipeline_id} until another does")
        return found

    def _pipeline(self, desired: Desired, spec: PipelineSpec) -> Pipeline:
        return Pipeline(desired, spec, self._registry, self._background, self._changed)


async def close(pipelines: Sequence[Pipeline]) -> None:
    await to_its_end(together([pipeline.close() for pipeline in pipelines], at_once=max(1, len(pipelines))))


def is_wanted(pipeline: Pipeline, desired: Desired) -> bool:
    return pipeline.spec.ring in [spec.ring for spec in desired.pipelines]


def new_in(desired: Desired, kept: Sequence[Pipeline]) -> list[PipelineSpec]:
    """Its pipelines that are not kept."""
    return [spec for spec in desired.pipelines if spec.ring not in [pipeline.spec.ring for pipeline in kept]]


def without(pipelines: Sequence[Pipeline], kept: Sequence[Pipeline]) -> list[Pipeline]:
    return [pipeline for pipeline in pipelines if pipeline not in kept]
