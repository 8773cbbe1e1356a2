"""Keeps deployments up: carries out what the phases of their pipelines ask for, and clears away what nothing wants."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial

from fleet.background import Background, set_within
from fleet.deploying.actions import Deployer, stage_work
from fleet.deploying.deployment_phase import DeploymentPhase, WantedDeployment, deployment_phase
from fleet.deploying.desired import Desired, PipelineSpec
from fleet.deploying.in_force import InForce
from fleet.deploying.phase import (
    Look,
    ObservedPipeline,
    Reattach,
    Repair,
    Replan,
    TakeOver,
    began,
    failed,
    loading,
    looked,
    noticed,
    pipeline_phase,
    reattached,
    replan_began,
    replan_ended,
    replan_failed,
    succeeded,
)
from fleet.deploying.pipeline import Pipeline
from fleet.deploying.reconcile import Unload, stale
from fleet.deploying.views import DeployEvent
from fleet.devices.registry import Registry
from fleet.store.deployments import DeploymentRecords
from protos.errors import FleetError, Unavailable
from protos.manifest import Manifest
from protos.rpc_errors import as_fleet_error

COALESCE_SECONDS = 0.05  # changes come in bursts: a device says three things when it comes back

_log = logging.getLogger(__name__)


class Keeper:
    """Level-triggered: looks at what is, not at what happened. `wake` it when something may have changed."""

    def __init__(
        self,
        registry: Registry,
        deployer: Deployer,
        store: DeploymentRecords,
        background: Background,
        *,
        in_force: Mapping[str, InForce],
        untouched: Callable[[], Collection[str]],
        replaced: Callable[[Pipeline], bool],
        manifest: Callable[[str, PipelineSpec], Manifest],
        move: Callable[[Pipeline], Awaitable[None]],
        take_over: Callable[[Pipeline, TakeOver], Awaitable[None]],
        standbys: Callable[[InForce], None],
        period_seconds: float,
    ) -> None:
        """`untouched`: names of deployments of which nothing is cleared away now; `replaced`: a pipeline in whose place another is being
        brought about. `manifest` may block. `move` puts a pipeline on other devices, `take_over` stages of it on its standbys; `standbys`
        looks after those of a deployment."""
        self._registry = registry
        self._deployer = deployer
        self._store = store
        self._background = background
        self._in_force = in_force
        self._untouched = untouched
        self._replaced = replaced
        self._manifest = manifest
        self._move = move
        self._take_over = take_over
        self._standbys = standbys
        self._period_seconds = period_seconds
        self._woken = asyncio.Event()
        self._news = asyncio.Event()

    def start(self) -> None:
        self._background.start(self._keep_up(), "keep deployments up")
        self._background.start(self._watch_registry(), "wake on changes of devices")

    def wake(self) -> None:
        self._woken.set()
        self._tell()

    async def changed_within(self, seconds: float) -> None:
        """Until the state of some pipeline may have changed, or the seconds have passed."""
        await set_within(self._news, seconds)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

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
        clearing: asyncio.Task[None] | None = None
        due: float | None = None
        while True:
            wait = self._period_seconds if due is None else max(0.0, due - asyncio.get_running_loop().time())
            await set_within(self._woken, min(wait, self._period_seconds))
            await asyncio.sleep(COALESCE_SECONDS)
            self._woken.clear()
            dues = []
            for deployment in list(self._in_force.values()):
                self._standbys(deployment)  # first: whether one is sought decides what becomes of a pipeline
                dues += [self._advance(pipeline, replaced=self._replaced(pipeline)) for pipeline in deployment.pipelines]
            due = min((one for one in dues if one is not None), default=None)
            self._tell()
            if clearing is None or clearing.done():
                clearing = self._background.start(self._clear_away(), "clear away")
            self._registry.forget_departed({device for one in self._in_force.values() for device in one.desired.devices})

    def _advance(self, pipeline: Pipeline, *, replaced: bool) -> float | None:
        """When to look again at the latest."""
        observed, now = pipeline.observe(replaced=replaced), asyncio.get_running_loop().time()
        pipeline.history = noticed(pipeline.history, observed, now)
        replan_after = pipeline.desired.policy.replan_after_seconds
        phase = pipeline_phase(observed, pipeline.history, now, replan_after=replan_after)
        if type(phase.state) is not type(pipeline.told):
            pipeline.told = phase.state
            what = phase.state.detail or "it answers"
            _log.info("%s is %s: %s", pipeline.spec.pipeline_id, type(phase.state).__name__.lower(), what)
        for action in phase.actions:
            match action:
                case Reattach():
                    self._reattach(pipeline)
                case Look():
                    if pipeline.look is None or pipeline.look.done():
                        pipeline.history = looked(pipeline.history, now)
                        pipeline.look = self._background.start(self._look(pipeline), f"look after {pipeline.spec.pipeline_id}")
                case Replan():
                    self._begin_move(pipeline, partial(self._move, pipeline), "planning it anew over the devices there are")
                case TakeOver():
                    self._begin_move(pipeline, partial(self._take_over, pipeline, action), f"standbys take over {_stages(action)}")
                case Repair():
                    pipeline.history = began(pipeline.history, action)
                    pipeline.repair = self._background.start(self._repair(pipeline, action), f"repair {pipeline.spec.pipeline_id}")
        return phase.due

    def _reattach(self, pipeline: Pipeline) -> None:
        pipeline.stream.restart()
        pipeline.history = reattached(pipeline.history)

    async def _look(self, pipeline: Pipeline) -> None:
        await self._registry.refresh(pipeline.spec.devices)
        self.wake()

    def _begin_move(self, pipeline: Pipeline, move: Callable[[], Awaitable[None]], how: str) -> None:
        pipeline.history = replan_began(pipeline.history)
        _log.info("%s has to leave a device: %s", pipeline.spec.pipeline_id, how)
        self._background.start(self._moved(pipeline, move), f"move {pipeline.spec.pipeline_id}")

    async def _moved(self, pipeline: Pipeline, move: Callable[[], Awaitable[None]]) -> None:
        name, detail = pipeline.spec.pipeline_id, ""
        try:
            await move()
        except FleetError as error:
            detail = error.detail
            _log.warning("%s could not be moved to other devices: %s", name, detail)
        except Exception as error:  # a defect of one pipeline must not leave it so for ever
            detail = as_fleet_error(error).detail
            _log.exception("a defect, while moving %s", name)
        if detail:
            pipeline.history = replan_failed(pipeline.history, detail, asyncio.get_running_loop().time())
        else:
            pipeline.history = replan_ended(pipeline.history)
        self.wake()

    async def _repair(self, pipeline: Pipeline, repair: Repair) -> None:
        """Load again what its devices lost."""
        before = pipeline.observe()
        try:
            addresses, loaded = await self._load_lost(pipeline, repair)
            if still_lost := pipeline.observe().lost:
                name = pipeline.spec.plan.stages[still_lost[0]].device_name
                raise Unavailable(f"{name}: it was told to load its stage, and does not hold it")
            pipeline.history = succeeded(pipeline.history, addresses, loaded=loaded)
        except FleetError as error:
            if pipeline.history.failure is None or pipeline.history.failure.detail != error.detail:
                _log.warning("repairing %s: %s", pipeline.spec.pipeline_id, error.detail)
            self._note_failure(pipeline, error.detail, before)
        except Exception as error:  # a defect of one pipeline must not leave it in repair for ever
            _log.exception("a defect, while repairing %s", pipeline.spec.pipeline_id)
            self._note_failure(pipeline, as_fleet_error(error).detail, before)
        if pipeline.history.stale_stream:
            self._reattach(pipeline)  # at once: what is asked meanwhile would be lost
        self.wake()

    async def _load_lost(self, pipeline: Pipeline, repair: Repair) -> tuple[tuple[frozenset[str], ...] | None, bool]:
        """(the addresses that neighbours were told, whether anything was loaded)."""
        desired, spec = pipeline.desired, pipeline.spec
        manifest = await asyncio.to_thread(self._manifest, desired.name, spec)
        stages = stage_work(desired, spec, manifest)
        await self._deployer.push([stages[number] for number in repair.stages], _unseen, in_force=desired.generation)
        addresses = pipeline.observe().addresses
        try:
            # Of its own devices only: one elsewhere that refuses is no reason to leave this pipeline lying.
            await self._deployer.unload([one for one in self.stale(desired) if one.device in spec.devices])
            pipeline.history = loading(pipeline.history)
            return addresses, await self._deployer.load(stages, _unseen)
        finally:
            await self._registry.refresh(spec.devices)

    def _note_failure(self, pipeline: Pipeline, detail: str, before: ObservedPipeline) -> None:
        pipeline.history = failed(pipeline.history, detail, before.stages, asyncio.get_running_loop().time())

    async def _clear_away(self) -> None:
        """Stages that no deployment wants: of its earlier generations, or on devices that were away while theirs was taken down."""
        for name in sorted({held.deployment for stages in self._deployer.observed().values() for held in stages}):
            try:
                known = 0 if name in self._in_force else await asyncio.to_thread(self._store.generation, name)
                if name not in self._untouched():
                    await self._deployer.unload(self._phase(name, known).unloads)
            except FleetError as error:
                _log.warning("clearing away %s: %s", name, error.detail)

    def _phase(self, name: str, known: int) -> DeploymentPhase:
        """`known`: the highest generation stored of one that is not in force."""
        held = self._deployer.observed()
        if (deployment := self._in_force.get(name)) is None:
            return deployment_phase(WantedDeployment(name, known), (), held)
        wanted = WantedDeployment(name, deployment.desired.generation, deployment.desired)
        return deployment_phase(wanted, [pipeline.state for pipeline in deployment.pipelines], held)


def _stages(action: TakeOver) -> str:
    numbers = [str(number) for number, _ in action.moves]
    return f"{'stage' if len(numbers) == 1 else 'stages'} {' and '.join(numbers)}"


def _unseen(_event: DeployEvent) -> None:
    """Nobody watches a repair."""
