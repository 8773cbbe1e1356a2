"""The deployments that are wanted: brought about, kept up, shown, taken down."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from fleet.background import Background, end, set_within
from fleet.deploying.actions import Deployer, Tell
from fleet.deploying.desired import Desired, of_one_plan
from fleet.deploying.reconcile import Await, Load, reconcile
from fleet.deploying.stored import Unreadable, read, write
from fleet.deploying.stream import PipelineStream
from fleet.deploying.views import DeployEvent, DeploymentState, DeploymentView
from fleet.devices.registry import Registry
from fleet.planning.plan import Plan
from fleet.store.database import Store
from protos.errors import Conflict, FleetError, InvalidInput, NotFound, Unavailable
from protos.ids import PROTOCOL_VERSION, DeviceId
from protos.manifest import Manifest
from protos.v1 import pipeline_pb2
from quantize.artifact.store import ArtifactStore

PERIOD_SECONDS = 5.0
COALESCE_SECONDS = 0.05  # changes come in bursts: a device says three things when it comes back

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_log = logging.getLogger(__name__)


@dataclass
class Live:
    """A deployment in force, and its stream."""

    desired: Desired
    stream: PipelineStream
    running: asyncio.Task[None]
    restoring: asyncio.Task[None] | None = None
    problem: str = ""  # why the last attempt to restore it failed
    reloading: bool = False  # what was lost is being loaded; its stream is the old one until it has been restarted
    addresses: tuple[str, ...] | None = None  # of its devices, as their neighbours were told last; None when not by us


@dataclass(frozen=True)
class _Untouched:
    """A deployment that cannot be read: its stages are left on the devices, and its text in the store."""

    unreadable: Unreadable
    text: str

    @property
    def advice(self) -> str:
        name = self.unreadable.name
        return f"go back to the version that stored it, deploy it anew with --name {name}, or take it down: glmfleet undeploy {name}"

    @property
    def view(self) -> DeploymentView:
        detail = f"what is stored of it cannot be read ({self.unreadable.why}); its stages stay on the devices: {self.advice}"
        return DeploymentView(self.unreadable.name, "", "", "unreadable", detail, (), 0, 0, self.unreadable.generation)


@dataclass
class _Deploying:
    desired: Desired
    worker: asyncio.Task[None]


class Deployments:
    """An async context manager. On entry, what the store wants is taken up again; on exit, devices keep their stages."""

    def __init__(self, registry: Registry, artifacts: ArtifactStore, store: Store, *, period_seconds: float = PERIOD_SECONDS) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._store = store
        self._period_seconds = period_seconds
        self._deployer = Deployer(registry, artifacts)
        self._live: dict[str, Live] = {}
        self._deploying: dict[str, _Deploying] = {}
        self._untouched: dict[str, _Untouched] = {}
        self._background = Background()
        self._woken = asyncio.Event()

    async def __aenter__(self) -> Self:
        for stored in await asyncio.to_thread(self._store.deployments):
            found = read(stored.name, stored.generation, stored.desired)
            if isinstance(found, Unreadable):
                untouched = self._untouched[found.name] = _Untouched(found, stored.desired)
                _log.error("deployment %s: %s", found.name, untouched.view.detail)
            else:
                self._enforce(found)
        self._background.start(self._keep_up(), "keep deployments up")
        self._background.start(self._watch_registry(), "wake on changes of devices")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Deployments under way take back what they loaded: they are cancelled once, and waited for.
        workers = [one.worker for one in self._deploying.values()]
        for worker in workers:
            _cancel_once(worker)
        if workers:
            await asyncio.wait(workers)
        await self._background.__aexit__(kind, error, trace)
        for live in self._live.values():
            live.stream.close()

    def views(self) -> list[DeploymentView]:
        """By name."""
        names = sorted({*self._live, *self._deploying, *self._untouched})
        return [self._view(name) for name in names]

    def serving(self, model: str | None) -> Live:
        """The deployment to ask: of this name, else of this model, else the only one.

        Raises NotFound; InvalidInput for several; Conflict for one that cannot be read.
        """
        names = ", ".join(sorted(self._live))
        if model in self._untouched:
            untouched = self._untouched[model]
            raise Conflict(f"deployment {model} cannot be read: {untouched.unreadable.why}", advice=untouched.advice)
        if not self._live:
            raise NotFound("no model is deployed", advice=f"deploy one with `glmfleet deploy {model or 'MODEL'}`")
        if model is None:
            if len(self._live) > 1:
                raise InvalidInput("several models are deployed", advice=f"say which with --model: {names}")
            return next(iter(self._live.values()))
        if model in self._live:
            return self._live[model]
        of_model = [live for live in self._live.values() if live.desired.plan.model == model]
        if not of_model:
            raise NotFound(f"no model {model!r} is deployed", advice=f"deployed: {names}; or run `glmfleet deploy {model}`")
        # Several deployments of one model: the one that answers, of these the first by name.
        return min(of_model, key=lambda live: (bool(self._trouble(live)), live.desired.name))

    def manifest(self, desired: Desired) -> Manifest:
        """Blocks. Raises NotFound when the model was removed here, Conflict when its name means another version now."""
        manifest = self._artifacts.load(desired.plan.model)
        if manifest.digest != desired.plan.manifest_digest:
            raise Conflict(
                f"deployment {desired.name} holds another version of {desired.plan.model} than the one imported here",
                advice=f"deploy it again: glmfleet deploy {desired.plan.model}",
            )
        return manifest

    async def deploy(self, plan: Plan, name: str) -> AsyncGenerator[DeployEvent, None]:
        """Bring `plan` about under `name`: push, load and ready events. Closing the iterator early, or an error, takes everything back.

        A deployment of this name is replaced: it answers while blobs are sent, then makes room, since a device may be too small for both.
        Raises Conflict while another deploy of the name runs, and what the devices say.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"not a deployment name: {name[:80]!r}", advice="use up to 64 of a-z, 0-9, '.', '_' and '-'")
        if name in self._deploying:
            raise Conflict(f"{name} is being deployed already", advice="wait for it, or stop it with Ctrl-C where it runs")
        known, in_force = await self._generations(name)
        if name in self._deploying:
            raise Conflict(f"{name} is being deployed already", advice="wait for it, or stop it with Ctrl-C where it runs")
        desired = of_one_plan(name, known + 1, plan)
        events: asyncio.Queue[DeployEvent | None] = asyncio.Queue()
        worker = asyncio.create_task(self._bring_about(desired, in_force, events.put_nowait), name=f"deploy {name}")
        worker.add_done_callback(lambda _: events.put_nowait(None))
        self._deploying[name] = _Deploying(desired, worker)
        try:
            while (event := await events.get()) is not None:
                yield event
            if worker.cancelled():
                raise Unavailable(f"{name} was not deployed: the coordinator is stopping")
            worker.result()
        finally:
            _cancel_once(worker)
            await asyncio.wait([worker])
            self._deploying.pop(name, None)
            self._woken.set()

    async def undeploy(self, name: str) -> None:
        """Raises NotFound listing the deployments, Conflict while it is being deployed. Absent devices are seen to on their return."""
        if name in self._deploying:
            raise Conflict(f"{name} is being deployed", advice="wait for it, or stop it with Ctrl-C where it runs")
        live = self._live.get(name)
        if live is None and name not in self._untouched:
            known = ", ".join(sorted({*self._live, *self._untouched}))
            raise NotFound(f"no deployment {name!r}", advice=f"deployments: {known}" if known else "nothing is deployed")
        known_generation, _ = await self._generations(name)
        await asyncio.to_thread(self._store.remove_deployment, name, known_generation + 1)
        if live is None:
            del self._untouched[name]
            await self._clear_away()  # its pipelines are not known; its name, which every stage holds, is
            return
        await self._retire(live)
        await self._deployer.take_back(live.desired, known_generation + 1)

    async def _generations(self, name: str) -> tuple[int, int]:
        """(the highest known of this name, here or on a device; the one in force, 0 if none)."""
        stored = await asyncio.to_thread(self._store.generation, name)
        held = [one.generation for stages in self._deployer.observed().values() for one in stages if one.deployment == name]
        return max([stored, *held]), stored

    async def _bring_about(self, desired: Desired, in_force: int, tell: Tell) -> None:
        manifest = await asyncio.to_thread(self.manifest, desired)
        self._deployer.check_present(desired)
        # Nothing is in force until the blobs are there: a push that fails leaves only blobs, which the next one finds.
        await self._deployer.push(desired, manifest, range(len(desired.devices)), tell, in_force=in_force)
        previous = self._live.get(desired.name)
        await asyncio.to_thread(self._store.put_deployment, desired.name, desired.generation, write(desired))
        untouched = self._untouched.pop(desired.name, None)
        live: Live | None = None
        try:
            if previous is not None:
                await self._retire(previous)
            await self._deployer.wait_present(desired)
            await self._deployer.settle(desired, manifest, tell)
            await self._registry.refresh(desired.devices)
            live = self._enforce(desired)
            live.addresses = self._deployer.addresses(desired)
            await live.stream.wait_attached()
        except BaseException:
            await self._roll_back(desired, live, previous or untouched)
            raise
        tell(DeployEvent("ready", deployment=desired.name))

    async def _roll_back(self, desired: Desired, live: Live | None, previous: Live | _Untouched | None) -> None:
        if live is not None:
            await self._retire(live)
        if previous is None:
            await asyncio.to_thread(self._store.remove_deployment, desired.name, desired.generation)
            await self._deployer.take_back(desired, desired.generation)
            return
        if isinstance(previous, _Untouched):
            unreadable = replace(previous.unreadable, generation=desired.generation + 1)
            await asyncio.to_thread(self._store.put_deployment, desired.name, unreadable.generation, previous.text)
            self._untouched[desired.name] = replace(previous, unreadable=unreadable)
            await self._deployer.take_back(desired, unreadable.generation)
            return
        again = of_one_plan(desired.name, desired.generation + 1, previous.desired.plan)
        await asyncio.to_thread(self._store.put_deployment, again.name, again.generation, write(again))
        await self._deployer.take_back(desired, again.generation)
        self._enforce(again).problem = f"generation {desired.generation} failed; the plan before it is being restored"
        self._woken.set()

    def _enforce(self, desired: Desired) -> Live:
        """From now on, keep it up."""
        attach = pipeline_pb2.Attach(
            protocol_version=PROTOCOL_VERSION,
            pipeline_id=desired.pipeline_id,
            manifest_digest=desired.plan.manifest_digest,
            epoch=desired.epoch,
        )
        head = desired.devices[0]
        stream = PipelineStream(attach, lambda: self._registry.client(head), self._woken.set)
        running = self._background.start(stream.run(), f"stream of {desired.pipeline_id}")
        live = self._live[desired.name] = Live(desired, stream, running)
        return live

    async def _retire(self, live: Live) -> None:
        self._live.pop(live.desired.name, None)
        for task in (live.restoring, live.running):
            if task is not None:
                await end(task)
        live.stream.close()

    async def _watch_registry(self) -> None:
        while True:
            changes = self._registry.changes
            for live in self._live.values():
                live.stream.wake()
            self._woken.set()
            await self._registry.changed_since(changes)

    async def _keep_up(self) -> None:
        """Level-triggered: looks at what is, not at what happened."""
        while True:
            await set_within(self._woken, self._period_seconds)
            await asyncio.sleep(COALESCE_SECONDS)
            self._woken.clear()
            for live in list(self._live.values()):
                if live.desired.name in self._deploying or not (live.restoring is None or live.restoring.done()):
                    continue
                if self._lacks(live) or self._moved(live):
                    live.restoring = self._background.start(self._restore(live), f"restore {live.desired.name}")
                else:
                    live.problem = ""
            await self._clear_away()
            wanted = [live.desired for live in self._live.values()]
            self._registry.forget_departed({DeviceId(stage.device_id) for desired in wanted for stage in desired.plan.stages})

    def _lacks(self, live: Live) -> bool:
        return any(not isinstance(action, Await) for action in reconcile(live.desired, self._deployer.observed()))

    def _lost(self, live: Live) -> bool:
        """A device that is there does not hold its stage."""
        actions = reconcile(live.desired, self._deployer.observed(live.desired.devices))
        return any(isinstance(action, Load) for action in actions)

    def _moved(self, live: Live) -> bool:
        """The ring does not stand, and a device answers elsewhere than its neighbour looks for it."""
        addresses = self._deployer.addresses(live.desired)
        return live.stream.broken and addresses is not None and addresses != live.addresses

    async def _restore(self, live: Live) -> None:
        """Load again what its devices lost."""
        desired = live.desired
        try:
            manifest = await asyncio.to_thread(self.manifest, desired)
            actions = reconcile(desired, self._deployer.observed())
            stages = [action.stage for action in actions if isinstance(action, Load)]
            await self._deployer.push(desired, manifest, stages, _untold, in_force=desired.generation)
            addresses, moved = self._deployer.addresses(desired), self._moved(live)
            live.reloading = bool(stages)
            try:
                loaded = await self._deployer.settle(desired, manifest, _untold, moved=moved)
                if loaded:
                    live.stream.restart()
            except FleetError:
                if live.reloading:  # a load whose answer was lost may have been done
                    live.stream.restart()
                raise
            finally:
                live.reloading = False
                await self._registry.refresh(desired.devices)
            live.addresses = addresses
            live.problem = ""
        except FleetError as error:
            if live.problem != error.detail:
                _log.warning("restoring %s: %s", desired.name, error.detail)
            live.problem = error.detail

    async def _clear_away(self) -> None:
        """Stages left on devices that were away while their deployment was taken down."""
        observed = self._deployer.observed()
        names = {held.deployment for stages in observed.values() for held in stages} - {*self._live, *self._deploying, *self._untouched}
        for name in sorted(names):
            try:
                generation = await asyncio.to_thread(self._store.generation, name)
                # One never stored here is another coordinator's.
                if generation and name not in self._live and name not in self._deploying:
                    await self._deployer.unload(self._deployer.stale_of(name, generation))
            except FleetError as error:
                _log.warning("clearing away %s: %s", name, error.detail)

    def _view(self, name: str) -> DeploymentView:
        live, deploying = self._live.get(name), self._deploying.get(name)
        if live is None and deploying is None:
            return self._untouched[name].view
        desired = live.desired if live else deploying.desired if deploying else None
        assert desired is not None
        state: DeploymentState
        detail = ""
        if deploying is not None:
            state = "deploying"
            if live is not None and live.desired is not deploying.desired:
                detail = f"generation {live.desired.generation} answers while generation {deploying.desired.generation} is sent"
        else:
            assert live is not None
            detail = self._trouble(live)
            state = "degraded" if detail else "ready"
        return DeploymentView(
            name=name,
            model=desired.plan.model,
            manifest_digest=desired.plan.manifest_digest,
            state=state,
            detail=detail,
            stages=desired.plan.stages,
            context=desired.plan.context,
            slots=desired.slots,
            generation=desired.generation,
        )

    def _trouble(self, live: Live) -> str:
        """Why it does not answer; "" when it does."""
        for stage, device in enumerate(live.desired.devices):
            if (record := self._registry.record(device)) is None or not record.connected:
                return f"{self._deployer.missing(live.desired, stage)}; it waits for this device, or deploy again to use others"
        if live.reloading or self._lost(live):
            # The head may not know yet that its ring is broken: what is asked now would end with it.
            return live.problem or "a device lost its stage, which is being loaded again"
        if live.stream.attached:
            return ""
        if live.problem:
            return live.problem
        return live.stream.error.detail if live.stream.error else "attaching"


def _cancel_once(task: asyncio.Task[None]) -> None:
    """A second cancel would cut short the clean-up that the first began."""
    if not task.done() and not task.cancelling():
        task.cancel()


def _untold(_event: DeployEvent) -> None:
    """Nobody watches a restore."""
