"""The deployments that are wanted: brought about, shown, taken down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from fleet.background import Background, cancel_once, to_its_end, was_done
from fleet.deploying import stored
from fleet.deploying.actions import BlobStates, Deployer, Report, Vouched, stage_work
from fleet.deploying.balancing import find, least_work
from fleet.deploying.desired import (
    DEFAULT_POLICY,
    Desired,
    PipelineSpec,
    Policy,
    check_name,
    new_desired,
    with_new_standbys,
    with_plans,
    with_stages_moved,
)
from fleet.deploying.in_force import Enforced, InForce, close, is_wanted, new_in, without
from fleet.deploying.keeper import Keeper
from fleet.deploying.phase import Failure, History, TakeOver, replan_failed
from fleet.deploying.pipeline import Pipeline
from fleet.deploying.placement import Placed, Placement
from fleet.deploying.standbys import Standbys
from fleet.deploying.stored import Unreadable
from fleet.deploying.views import DeployEvent, DeploymentView, deploying_view, in_force_view, unreadable_view
from fleet.devices.registry import Registry
from fleet.planning.plan import Plan
from fleet.store.database import Store
from fleet.store.deployments import DeploymentRecords
from protos.errors import Conflict, FleetError, NotFound, Unavailable
from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore

PERIOD_SECONDS = 5.0
SETTLE_SECONDS = 10.0  # a pipeline that a standby has joined: so long new requests wait for it

_log = logging.getLogger(__name__)


@dataclass
class _Deploying:
    """`moving`: the keeper began it, and it makes way for whoever asks for something else. `quick`: it sends nothing, and is not shown."""

    desired: Desired
    worker: asyncio.Task[None]
    moving: bool = False
    quick: bool = False


class Deployments:
    """An async context manager. On entry, what the store wants is taken up again; on exit, devices keep their stages."""

    def __init__(
        self,
        registry: Registry,
        artifacts: ArtifactStore,
        store: Store,
        placement: Placement,
        *,
        vouched: Vouched = lambda _model, _manifest: None,
        period_seconds: float = PERIOD_SECONDS,
        moved: Callable[[str, str], None] = lambda _pipeline, _devices: None,
    ) -> None:
        """`vouched` as of Deployer."""
        self._registry = registry
        self._placement = placement
        self._artifacts = artifacts
        self._store = DeploymentRecords(store)
        self._deployer = Deployer(registry, artifacts, vouched)
        self._unreadable: dict[str, Unreadable] = {}
        self._deploying: dict[str, _Deploying] = {}
        self._ending: set[str] = set()
        self._closing = False
        self._moved = moved
        self._background = Background()
        self.enforced = Enforced(registry, self._background, lambda: self._keeper.wake())
        self._in_force = self.enforced.deployments
        self._keeper = Keeper(
            registry,
            self._deployer,
            self._store,
            self._background,
            in_force=self._in_force,
            untouched=lambda: {*self._deploying, *self._unreadable},
            replaced=self._is_replaced,
            manifest=self.manifest,
            move=self._move,
            take_over=self._take_over,
            standbys=self._look_after_standbys,
            period_seconds=period_seconds,
        )
        self._standbys = Standbys(
            registry,
            self._deployer,
            placement,
            self._background,
            manifest=self.manifest,
            put=self._put_standbys,
            wake=self._keeper.wake,
        )

    async def __aenter__(self) -> Self:
        for one in await asyncio.to_thread(self._store.deployments):
            match stored.read(one.name, one.generation, one.desired):
                case Unreadable() as unreadable:
                    self._unreadable[one.name] = unreadable
                    _log.error("deployment %s: %s", one.name, unreadable_view(unreadable).detail)
                case desired:
                    self.enforced.enforce(desired)
        self._keeper.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Deployments under way take back what they loaded: they are cancelled once, and waited for.
        self._closing = True
        while workers := [one.worker for one in self._deploying.values()]:
            for worker in workers:
                cancel_once(worker)
            await asyncio.wait(workers)
        await self._background.__aexit__(kind, error, trace)
        for deployment in self._in_force.values():
            for pipeline in deployment.pipelines:
                pipeline.stream.close()

    def views(self) -> list[DeploymentView]:
        """By name."""
        names = sorted({*self._in_force, *self._deploying, *self._unreadable})
        return [self._view(name) for name in names]

    def is_moving(self, model: str | None) -> bool:
        """Whether a deployment of this name or model is about to answer elsewhere, by what the keeper does."""
        coming = [one.desired for one in self._deploying.values() if one.moving]
        return self.enforced.settles(model) or any(model in (None, one.name, *one.models) for one in coming)

    def choose(self, model: str | None, *, avoid: frozenset[str] = frozenset()) -> Pipeline:
        """The pipeline to ask: of the deployment of this name, else of this model, else of the only one; of its pipelines that answer the
        one with the least outstanding work. `avoid`: ids of pipelines that have failed this request.

        Raises NotFound; InvalidInput when several deployments are possible; Conflict for one that cannot be read; Unavailable while it is
        being deployed, and when all of its pipelines are to be avoided.
        """
        coming = [one.desired for one in self._deploying.values()]
        deployment = find(model, self._in_force, coming, self._unreadable, self._artifacts.list)
        return least_work(deployment.desired.name, deployment.pipelines, avoid)

    async def changed_within(self, seconds: float) -> None:
        """Until the state of some pipeline may have changed, or the seconds have passed; `choose` says what it is."""
        await self._keeper.changed_within(seconds)

    def manifest(self, name: str, spec: PipelineSpec) -> Manifest:
        """Blocks. Raises NotFound when the model was removed here, Conflict when its name means another version now."""
        manifest = self._artifacts.load(spec.plan.model)
        if manifest.digest != spec.plan.manifest_digest:
            raise Conflict(
                f"deployment {name} holds another version of {spec.plan.model} than the one imported here",
                advice=f"deploy it again: glmfleet deploy {spec.plan.model}",
            )
        return manifest

    async def deploy(self, placed: Placed, name: str, policy: Policy = DEFAULT_POLICY) -> AsyncGenerator[DeployEvent, None]:
        """Bring a pipeline about for each plan under `name`: push, load and ready events.

        Closing the iterator early, or an error, takes everything back. A deployment of this name is replaced: it answers while blobs are
        sent, then makes room, since a device may be too small for both. Raises Conflict while another deploy of the name runs, and what
        the devices say.
        """
        check_name(name)
        await self._end_move(name)
        self._check_free(name)
        known, stored_generation = await self._generations(name)
        self._check_free(name)
        desired = new_desired(name, known + 1, placed.plans, placed.request, policy)
        self._standbys.lacks(name, placed.lacking)
        events: asyncio.Queue[DeployEvent | None] = asyncio.Queue()
        worker = self._begin(desired, placed.blobs, stored_generation, events.put_nowait)
        worker.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            if worker.cancelled():
                raise Unavailable(f"{name} was not deployed: the coordinator is stopping")
            worker.result()
        finally:
            cancel_once(worker)
            await asyncio.wait([worker])

    def _is_replaced(self, pipeline: Pipeline) -> bool:
        coming = self._deploying.get(pipeline.desired.name)
        return pipeline.desired.name in self._unreadable or (coming is not None and not is_wanted(pipeline, coming.desired))

    async def _end_move(self, name: str) -> None:
        """What the keeper has begun makes way for what somebody asks for."""
        if (coming := self._deploying.get(name)) is not None and coming.moving:
            cancel_once(coming.worker)
            await asyncio.wait([coming.worker])

    def _begin(
        self, desired: Desired, blobs: BlobStates, in_force: int, report: Report, *, unless: Callable[[], str] | None = None
    ) -> asyncio.Task[None]:
        work = self._bring_about(desired, blobs, in_force, report, unless or (lambda: ""))
        return self._start(desired, work, moving=unless is not None)

    def _start(self, desired: Desired, work: Coroutine[None, None, None], *, moving: bool, quick: bool = False) -> asyncio.Task[None]:
        def done(_: asyncio.Task[None]) -> None:
            self._deploying.pop(desired.name, None)
            self._keeper.wake()

        worker = asyncio.create_task(work, name=f"deploy {desired.name}")
        self._deploying[desired.name] = _Deploying(desired, worker, moving, quick)
        worker.add_done_callback(done)
        return worker

    def _look_after_standbys(self, deployment: InForce) -> None:
        if deployment.desired.name not in self._deploying:
            self._standbys.advance(deployment.desired, deployment.pipelines)

    async def _take_over(self, pipeline: Pipeline, action: TakeOver) -> None:
        """The desired state changes; the keeper brings it about, as it repairs what a device has lost. Raises FleetError."""
        spec, moves = pipeline.spec, dict(action.moves)

        def changed(desired: Desired, generation: int) -> Desired | None:
            still = any(one is pipeline for one in self._in_force[desired.name].pipelines) and set(moves.values()) <= set(desired.standbys)
            return with_stages_moved(desired, generation, spec.pipeline_id, moves) if still else None

        if await self._change(pipeline.desired.name, changed):
            devices = ", ".join(one.device_name for one in spec.plan.standbys if one.device_id in moves.values())
            _log.warning("%s: stages that had to leave their device are on %s", spec.pipeline_id, devices)
            self._moved(spec.pipeline_id, devices)

    async def _put_standbys(self, name: str, plans: Callable[[Desired], tuple[Plan, ...] | None]) -> bool:
        def changed(desired: Desired, generation: int) -> Desired | None:
            return None if (found := plans(desired)) is None else with_new_standbys(desired, generation, found)

        return await self._change(name, changed)

    async def _change(self, name: str, changed: Callable[[Desired, int], Desired | None]) -> bool:
        """Store another desired state, by which at least the blobs that are needed are where they have to be; False when it is not to be
        changed now. Raises FleetError."""
        known, _ = await self._generations(name)
        deployment = self._in_force.get(name)
        if self._closing or deployment is None or name in self._deploying or name in self._ending:
            return False
        if (desired := changed(deployment.desired, known + 1)) is None:
            return False
        worker = self._start(desired, to_its_end(self._put_in_force(desired, deployment)), moving=True, quick=True)
        return await was_done(worker)

    async def _put_in_force(self, desired: Desired, previous: InForce) -> None:
        await asyncio.to_thread(self._store.put_deployment, desired.name, desired.generation, stored.write(desired))
        kept, now = previous.kept_by(desired), asyncio.get_running_loop().time()
        for pipeline in without(self.enforced.enforce(desired, kept).pipelines, kept):
            pipeline.history, pipeline.settles_until = History(failure=Failure("a standby takes over", 0, now)), now + SETTLE_SECONDS
        await close(without(previous.pipelines, kept))

    async def _move(self, lost: Pipeline) -> None:
        """Put a pipeline on other devices; the others of its deployment go on. Raises FleetError; the plan before is in force then."""
        planned_for, name = lost.desired, lost.desired.name
        placed = await self._placement.move(planned_for, lost.spec)
        known, stored_generation = await self._generations(name)
        deployment = self._in_force.get(name)
        if self._closing or deployment is None or name in self._deploying or name in self._ending or lost not in deployment.pipelines:
            return
        if deployment.desired != planned_for:
            return  # another pipeline may have moved to where this one was to go
        desired = with_plans(deployment.desired, known + 1, {lost.spec.pipeline_id: placed.plans[0]})
        is_back = lambda: "its devices are back" if (at := lost.observe()).addresses and not at.draining else ""  # noqa: E731
        worker = self._begin(desired, placed.blobs, stored_generation, lambda event: None, unless=is_back)
        if await was_done(worker):
            devices = ", ".join(stage.device_name for stage in placed.plans[0].stages)
            _log.warning("%s was moved to %s", lost.spec.pipeline_id, devices)
            self._moved(lost.spec.pipeline_id, devices)

    async def undeploy(self, name: str) -> None:
        """Raises NotFound listing the deployments, Conflict while it is being deployed. Absent devices are seen to on their return."""
        await self._end_move(name)
        self._check_free(name)
        if name not in self._in_force and name not in self._unreadable:
            known = ", ".join(sorted({*self._in_force, *self._unreadable}))
            raise NotFound(f"no deployment {name!r}", advice=f"deployments: {known}" if known else "nothing is deployed")
        self._ending.add(name)
        try:
            await self._take_down(name)
        finally:
            self._ending.discard(name)
            self._keeper.wake()

    async def _take_down(self, name: str) -> None:
        generation, _ = await self._generations(name)
        await asyncio.to_thread(self._store.remove_deployment, name, generation + 1)
        self._unreadable.pop(name, None)
        self._standbys.forget(name)
        if (deployment := self._in_force.get(name)) is not None:
            await self.enforced.retire(deployment)
            await self._deployer.take_back(name, generation + 1, deployment.desired.pipelines)

    def _check_free(self, name: str) -> None:
        if name in self._ending:
            raise Conflict(f"{name} is being undeployed", advice="try again in a moment")
        if name in self._deploying:
            raise Conflict(f"{name} is being deployed", advice="wait for it, or stop it with Ctrl-C where it runs")

    async def _generations(self, name: str) -> tuple[int, int]:
        """The highest known anywhere, and the one in the store; 0 for none."""
        in_store = await asyncio.to_thread(self._store.generation, name)
        held = [one.generation for stages in self._deployer.observed().values() for one in stages if one.deployment == name]
        return max([in_store, *held]), in_store

    async def _bring_about(self, desired: Desired, blobs: BlobStates, in_force: int, report: Report, unless: Callable[[], str]) -> None:
        """`unless` says, once all is sent, why nothing is to change after all; "" to go on."""
        previous = self._in_force.get(desired.name)
        kept = previous.kept_by(desired) if previous else []
        new = new_in(desired, kept)
        stages = [stage for spec in new for stage in stage_work(desired, spec, await asyncio.to_thread(self.manifest, desired.name, spec))]
        self._deployer.check_present(new)
        # Nothing is in force until the blobs are there: a push that fails leaves only blobs, which the next one finds.
        await self._deployer.push(stages, report, in_force=in_force, known=blobs)
        if why := unless():
            raise Unavailable(why)
        unreadable = self._unreadable.get(desired.name)
        begun: InForce | None = None
        stored_text = stored.write(desired)
        storing = asyncio.ensure_future(asyncio.to_thread(self._store.put_deployment, desired.name, desired.generation, stored_text))
        try:
            await to_its_end(storing)
            self._unreadable.pop(desired.name, None)
            if previous is not None:
                await self.enforced.retire(previous, kept)
            await self._deployer.wait_present(new)
            await self._deployer.unload(self._keeper.stale(desired))
            await self._deployer.load(stages, report)
            await self._registry.refresh(desired.devices)
            begun = self.enforced.enforce(desired, kept)
            for pipeline in without(begun.pipelines, kept):
                pipeline.history = History(sent_addresses=pipeline.observe().addresses)
                await pipeline.stream.wait_attached()
        except BaseException as error:
            if storing.exception() is None:  # else nothing has changed
                await to_its_end(self._roll_back(desired, begun, previous, unreadable, error))
            raise
        report(DeployEvent("ready", deployment=desired.name))

    async def _roll_back(
        self, desired: Desired, begun: InForce | None, previous: InForce | None, unreadable: Unreadable | None, error: BaseException
    ) -> None:
        kept = previous.kept_by(desired) if previous else []
        new = new_in(desired, kept)
        for deployment in (begun, previous):
            if deployment is not None:
                await self.enforced.retire(deployment, kept)
        if unreadable is not None:
            again = replace(unreadable, generation=desired.generation + 1)
            await asyncio.to_thread(self._store.put_deployment, again.name, again.generation, again.text)
            self._unreadable[again.name] = again
            await self._deployer.take_back(desired.name, again.generation, new)
            return
        if previous is None:
            await asyncio.to_thread(self._store.remove_deployment, desired.name, desired.generation)
            await self._deployer.take_back(desired.name, desired.generation, new)
            return
        lost = {pipeline.spec.pipeline_id: pipeline.spec.plan for pipeline in without(previous.pipelines, kept)}
        restored = with_plans(previous.desired, desired.generation + 1, lost)
        try:
            await asyncio.to_thread(self._store.put_deployment, restored.name, restored.generation, stored.write(restored))
        except FleetError as not_stored:  # it goes on until the coordinator starts anew, which then finds the one that failed
            _log.error("deployment %s: what is in force could not be stored: %s", restored.name, not_stored.detail)
        await self._deployer.take_back(desired.name, restored.generation, new)
        now, why = asyncio.get_running_loop().time(), f"generation {desired.generation} failed; the plan before it is being restored"
        for pipeline, before in zip(self.enforced.enforce(restored, kept).pipelines, previous.pipelines, strict=True):
            if pipeline is before:
                continue
            pipeline.history = History(failure=Failure(why, 0, now))
            if before.history.replanning:
                remembered = replan_failed(before.history, error.detail if isinstance(error, FleetError) else "it was broken off", now)
                pipeline.history = replace(
                    pipeline.history, away=remembered.away, away_since=remembered.away_since, replan_failure=remembered.replan_failure
                )
        self._keeper.wake()

    def _view(self, name: str) -> DeploymentView:
        deployment = self._in_force.get(name)
        if (coming := self._deploying.get(name)) is not None and not coming.quick:
            return deploying_view(coming.desired, deployment.desired if deployment else None)
        if deployment is not None:
            pipelines = deployment.pipelines
            standbys = [pipeline.standby_views() for pipeline in pipelines]
            return in_force_view(deployment.desired, [one.state for one in pipelines], standbys, self._standbys.detail(name))
        return unreadable_view(self._unreadable[name])
