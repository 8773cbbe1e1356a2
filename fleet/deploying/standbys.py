"""Keeps the standbys of deployments ready: looks for those that are lacking, pushes what they are to keep, and loads it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fleet.background import Background
from fleet.deploying.actions import Deployer, StageWork
from fleet.deploying.desired import Desired, PipelineSpec
from fleet.deploying.phase import Failure, ObservedStandby
from fleet.deploying.pipeline import Pipeline
from fleet.deploying.placement import Placement
from fleet.deploying.views import DeployEvent
from fleet.devices.registry import Registry
from fleet.planning.plan import Plan
from fleet.planning.standby import without
from protos.errors import FleetError
from protos.ids import DeviceId
from protos.manifest import Manifest

# A standby that could not be made ready is tried again, at first so soon, then after twice as long each time.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0
# A standby that is away for so long makes way for another device, where there is one.
AWAY_SECONDS = 60.0
# With as few devices as before, others are looked for so often: memory may have become free.
SEARCH_SECONDS = 30.0

_log = logging.getLogger(__name__)


@dataclass
class _Search:
    """Of one deployment's lacking standbys. `seen`: what had happened to devices when it looked last, `wanted` how many it looked for."""

    task: asyncio.Task[None] | None = None
    at: float = float("-inf")
    seen: int = -1
    wanted: int = 0
    detail: str = ""  # why there are not as many as were asked for
    away_since: dict[DeviceId, float] = field(default_factory=dict)


class Standbys:
    """`advance` it whenever something may have changed."""

    def __init__(
        self,
        registry: Registry,
        deployer: Deployer,
        placement: Placement,
        background: Background,
        *,
        manifest: Callable[[str, PipelineSpec], Manifest],
        put: Callable[[str, Callable[[Desired], tuple[Plan, ...] | None]], Awaitable[bool]],
        wake: Callable[[], None],
    ) -> None:
        """`manifest` may block. `put` gives a deployment's pipelines these plans, which differ from theirs in the standbys alone; it says
        whether it has."""
        self._registry = registry
        self._deployer = deployer
        self._placement = placement
        self._background = background
        self._manifest = manifest
        self._put = put
        self._wake = wake
        self._searches: dict[str, _Search] = {}

    def detail(self, name: str) -> str:
        """Why a deployment has fewer standbys than it is to have; "" when it has them."""
        return self._searches[name].detail if name in self._searches else ""

    def lacks(self, name: str, detail: str) -> None:
        """As planning it has found."""
        self._searches.setdefault(name, _Search()).detail = detail

    def advance(self, desired: Desired, pipelines: tuple[Pipeline, ...]) -> None:
        now = asyncio.get_running_loop().time()
        for pipeline in pipelines:
            for standby in pipeline.observe().standbys:
                self._prepare_if_due(pipeline, standby, now)
        self._search_if_due(desired, pipelines, now)

    def forget(self, name: str) -> None:
        """It is taken down."""
        self._searches.pop(name, None)

    def _prepare_if_due(self, pipeline: Pipeline, standby: ObservedStandby, now: float) -> None:
        device = standby.device
        running, failure = pipeline.preparing.get(device), pipeline.unprepared.get(device)
        covers = next(its.covers for its in pipeline.spec.plan.standbys if its.device_id == device)
        lacking = [one.stage for one in covers if one.stage not in standby.ready]
        if not lacking or not self._there(device) or (running is not None and not running.done()):
            return
        wait = min(FIRST_WAIT_SECONDS * 2.0 ** min(failure.count - 1, 10), LONGEST_WAIT_SECONDS) if failure else 0.0
        if failure is None or now >= failure.at + wait:
            work = self._prepare(pipeline, device, lacking)
            pipeline.preparing[device] = self._background.start(work, f"standby {device} of {pipeline.spec.pipeline_id}")

    def _there(self, device: DeviceId) -> bool:
        record = self._registry.record(device)
        return record is not None and record.connected and not record.draining

    async def _prepare(self, pipeline: Pipeline, device: DeviceId, lacking: list[int]) -> None:
        """One stage after the other: each is of use by itself."""
        desired, spec = pipeline.desired, pipeline.spec
        try:
            manifest = await asyncio.to_thread(self._manifest, desired.name, spec)
            for number in lacking:
                stage = StageWork(desired, spec, manifest, number, standby=device)
                await self._deployer.push([stage], _unseen, in_force=desired.generation)
                await self._deployer.load([stage], _unseen)
                await self._deployer.load([StageWork(desired, spec, manifest, number)], _unseen)  # it sends its rows from now on
            pipeline.unprepared.pop(device, None)
        except FleetError as error:
            before = pipeline.unprepared.get(device)
            if before is None or before.detail != error.detail:
                _log.warning("standby of %s: %s", spec.pipeline_id, error.detail)
            count = before.count + 1 if before else 1
            pipeline.unprepared[device] = Failure(error.detail, count, asyncio.get_running_loop().time())
        finally:
            await self._registry.refresh([device])
            self._wake()

    def _search_if_due(self, desired: Desired, pipelines: tuple[Pipeline, ...], now: float) -> None:
        search = self._searches.setdefault(desired.name, _Search())
        there = {device for device in desired.standbys if self._there(device)}
        search.away_since = {device: search.away_since.get(device, now) for device in desired.standbys if device not in there}
        given_up = {device for device, since in search.away_since.items() if now >= since + AWAY_SECONDS or self._drains(device)}
        # Where a device is to be switched off, a spare one takes its stage over without a pause for loading.
        leaving = sum(len(pipeline.observe().draining) for pipeline in pipelines)
        wanted = max(desired.policy.standby, leaving) - len(set(desired.standbys) - given_up)
        if wanted <= 0:
            search.detail = ""
        if wanted < 0 and not desired.policy.standby:
            given_up |= set(desired.standbys)  # what was switched off is so, or is kept
        changed = wanted != search.wanted or self._registry.changes != search.seen
        due = wanted > 0 and (changed or now >= search.at + SEARCH_SECONDS)
        if (due or given_up) and (search.task is None or search.task.done()):
            search.at, search.seen, search.wanted = now, self._registry.changes, wanted
            work = self._search(desired, wanted, given_up, search)
            search.task = self._background.start(work, f"standbys of {desired.name}")
        for pipeline in pipelines:
            pipeline.seeking = search.task is not None and not search.task.done()

    def _drains(self, device: DeviceId) -> bool:
        record = self._registry.record(device)
        return record is not None and record.draining

    async def _search(self, desired: Desired, wanted: int, given_up: set[DeviceId], search: _Search) -> None:
        try:
            left = _without(desired, given_up)
            plans, detail = tuple(spec.plan for spec in left.pipelines), ""
            if wanted > 0:
                plans, detail = await self._placement.standbys(left, wanted)
            if detail and detail != search.detail:
                _log.info("%s has %s", desired.name, detail)
            search.detail = detail if desired.policy.standby else ""
            changed = plans != tuple(spec.plan for spec in desired.pipelines)
            if changed and not await self._put(desired.name, lambda now: plans if now == desired else None):
                search.seen = -1  # it is another deployment by now: look again
        except FleetError as error:
            search.detail = f"no standby was found: {error.detail}"
            _log.warning("standbys of %s: %s", desired.name, error.detail)
        finally:
            asyncio.get_running_loop().call_soon(self._wake)  # once it has ended


def _without(desired: Desired, devices: set[DeviceId]) -> Desired:
    if not devices:
        return desired
    specs = tuple(PipelineSpec(spec.pipeline_id, spec.epoch, without(spec.plan, devices)) for spec in desired.pipelines)
    return Desired(desired.name, desired.generation, specs, desired.request, desired.policy)


def _unseen(_event: DeployEvent) -> None:
    """Nobody watches."""
