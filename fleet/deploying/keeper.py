"""Keeps deployments up: carries out what the phases of their pipelines ask for, and clears away what nothing wants."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from fleet.background import Background, set_within
from fleet.deploying.actions import Deployer
from fleet.deploying.desired import Desired, PipelineSpec
from fleet.deploying.phase import Look, Ready, Reattach, Repair, began, failed, looked, reattached, succeeded
from fleet.deploying.pipeline import Pipeline
from fleet.deploying.reconcile import Unload, stale
from fleet.deploying.views import DeployEvent
from fleet.devices.registry import Registry
from fleet.store.database import Store
from protos.errors import FleetError
from protos.manifest import Manifest

COALESCE_SECONDS = 0.05  # changes come in bursts: a device says three things when it comes back

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InForce:
    """A deployment that is wanted, with its pipelines."""

    desired: Desired
    pipelines: tuple[Pipeline, ...]

    @property
    def answers(self) -> bool:
        return any(isinstance(pipeline.state, Ready) for pipeline in self.pipelines)


class Keeper:
    """Level-triggered: looks at what is, not at what happened. `wake` it when something may have changed."""

    def __init__(
        self,
        registry: Registry,
        deployer: Deployer,
        store: Store,
        background: Background,
        *,
        in_force: Mapping[str, InForce],
        untouched: Callable[[], Collection[str]],
        manifest: Callable[[str, PipelineSpec], Manifest],
        period_seconds: float,
    ) -> None:
        """`untouched`: names of deployments of which nothing is repaired or cleared away now. `manifest` may block."""
        self._registry = registry
        self._deployer = deployer
        self._store = store
        self._background = background
        self._in_force = in_force
        self._untouched = untouched
        self._manifest = manifest
        self._period_seconds = period_seconds
        self._woken = asyncio.Event()

    def start(self) -> None:
        self._background.start(self._keep_up(), "keep deployments up")
        self._background.start(self._watch_registry(), "wake on changes of devices")

    def wake(self) -> None:
        self._woken.set()

    def stale(self, desired: Desired) -> list[Unload]:
        """Stages of this deployment that it does not want."""
        return stale(desired.name, desired.generation, self._deployer.observed(), keep=desired.pipelines)

    async def _watch_registry(self) -> None:
        while True:
            changes = self._registry.changes
            for deployment in self._in_force.values():
                for pipeline in deployment.pipelines:
                    pipeline.stream.wake()
            self.wake()
            await self._registry.changed_since(changes)

    async def _keep_up(self) -> None:
        while True:
            await set_within(self._woken, self._period_seconds)
            await asyncio.sleep(COALESCE_SECONDS)
            self._woken.clear()
            for deployment in list(self._in_force.values()):
                replaced = deployment.desired.name in self._untouched()
                for pipeline in deployment.pipelines:
                    self._advance(pipeline, replaced=replaced)
            await self._clear_away()
            self._registry.forget_departed({device for one in self._in_force.values() for device in one.desired.devices})

    def _advance(self, pipeline: Pipeline, *, replaced: bool) -> None:
        for action in pipeline.phase(replaced=replaced).actions:
            match action:
                case Reattach():
                    self._reattach(pipeline)
                case Look():
                    pipeline.history = looked(pipeline.history, asyncio.get_running_loop().time())
                    self._background.start(self._look(pipeline), f"look after {pipeline.spec.pipeline_id}")
                case Repair():
                    pipeline.history = began(pipeline.history, action)
                    pipeline.repair = self._background.start(self._repair(pipeline, action), f"repair {pipeline.spec.pipeline_id}")

    def _reattach(self, pipeline: Pipeline) -> None:
        pipeline.stream.restart()
        pipeline.history = reattached(pipeline.history)

    async def _look(self, pipeline: Pipeline) -> None:
        await self._registry.refresh(pipeline.spec.devices)
        self.wake()

    async def _repair(self, pipeline: Pipeline, repair: Repair) -> None:
        """Load again what its devices lost."""
        desired, spec = pipeline.desired, pipeline.spec
        before = pipeline.observe()
        try:
            manifest = await asyncio.to_thread(self._manifest, desired.name, spec)
            await self._deployer.push(desired, spec, manifest, repair.stages, _unseen, in_force=desired.generation)
            addresses = pipeline.observe().addresses
            try:
                await self._deployer.unload(self.stale(desired))
                await self._deployer.load(desired, spec, manifest, _unseen)
            finally:
                await self._registry.refresh(spec.devices)
            pipeline.history = succeeded(pipeline.history, addresses, loaded=True)
        except FleetError as error:
            if pipeline.history.failure is None or pipeline.history.failure.detail != error.detail:
                _log.warning("repairing %s: %s", spec.pipeline_id, error.detail)
            pipeline.history = failed(pipeline.history, error.detail, before.stages, asyncio.get_running_loop().time())
        if pipeline.history.stale_stream:
            self._reattach(pipeline)  # at once: what is asked meanwhile would be lost
        self.wake()

    async def _clear_away(self) -> None:
        """Stages that no deployment wants: of earlier generations, or on devices that were away while theirs was taken down."""
        for name in sorted({held.deployment for stages in self._deployer.observed().values() for held in stages}):
            try:
                if name not in self._untouched() and (unloads := await self._unwanted(name)):
                    await self._deployer.unload(unloads)
            except FleetError as error:
                _log.warning("clearing away %s: %s", name, error.detail)

    async def _unwanted(self, name: str) -> list[Unload]:
        if (deployment := self._in_force.get(name)) is not None:
            return self.stale(deployment.desired)
        generation = await asyncio.to_thread(self._store.generation, name)
        # One never stored here is another coordinator's.
        if not generation or name in self._in_force or name in self._untouched():
            return []
        return stale(name, generation, self._deployer.observed())


def _unseen(_event: DeployEvent) -> None:
    """Nobody watches a repair."""
