"""Plans for the devices that are there now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from fleet.background import together
from fleet.deploying import candidates
from fleet.deploying.actions import BlobStates
from fleet.deploying.desired import Desired, PipelineSpec
from fleet.devices.client import BlobState
from fleet.devices.registry import ASKED_AT_ONCE, Registry
from fleet.planning.compared import compared_lines
from fleet.planning.costs import PlannerDevice
from fleet.planning.plan import Plan, PlanRequest
from fleet.planning.planner import plan
from fleet.planning.presence import with_present
from fleet.planning.programs import with_programs
from fleet.planning.standby import lacking_line, lines, with_standbys
from fleet.planning.why import with_relayed
from protos.dtypes import KvDtype
from protos.errors import Conflict, FleetError, InvalidInput, NoSpace, NotFound, Unavailable
from protos.ids import DeviceId, Digest
from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore

# A plan that the devices found so far do not allow waits for others until the coordinator has looked so long (mDNS answers within 2 s).
DISCOVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Placed:
    """Plans for the pipelines of one deployment, what they were made for, and what their devices said of the model's blobs. `lacking`: why
    there are fewer standbys than were asked for, "" when there are not."""

    request: PlanRequest
    plans: tuple[Plan, ...]
    blobs: BlobStates
    lacking: str = ""


class Placement:
    """Looks at the devices, then lets the planner decide. Made when discovery starts."""

    def __init__(self, registry: Registry, artifacts: ArtifactStore, *, discovery_seconds: float = DISCOVERY_SECONDS) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._discovered_by = time.monotonic() + discovery_seconds

    async def place(self, request: PlanRequest, *, replaces: str, replicas: int = 1, standby: int = 0) -> Placed:
        """A plan for each of so many pipelines, on devices of their own, and `standby` devices more that keep their stages loaded, if there
        are so many. Stages of deployment `replaces` count as free memory.

        Raises NotFound, InvalidInput, NoSpace, Unavailable (a device that was asked for is not online).
        """
        if replicas < 1:
            raise InvalidInput(f"{replicas} replicas: at least one pipeline must answer", advice="choose another --replicas")
        manifest = await asyncio.to_thread(self._artifacts.load, request.model)
        while True:
            changes = self._registry.changes
            try:
                placed = await self._place_now(request, manifest, replaces, replicas)
                return await self._with_standbys(placed, manifest, replaces, standby) if standby else placed
            except (NotFound, NoSpace, Unavailable):
                if not await self._registry.changed_within(changes, self._discovered_by - time.monotonic()):
                    raise

    async def move(self, desired: Desired, lost: PipelineSpec) -> Placed:
        """A plan for the pipeline `lost` over the devices that are there now and hold none of its deployment's other pipelines: as it was
        asked for, and if that fits nowhere with as few stages as fit.

        Raises Conflict (nobody knows what was asked for; the model's name means another version now), NotFound, NoSpace, Unavailable.
        """
        again = f"deploy it again: glmfleet deploy {lost.plan.model}"
        if desired.request is None:
            raise Conflict("an older version of glmfleet stored it without its wishes", advice=again)
        manifest = await asyncio.to_thread(self._artifacts.load, lost.plan.model)
        if manifest.digest != lost.plan.manifest_digest:
            raise Conflict(f"{lost.plan.model} is another version here now", advice=again)
        request = replace(desired.request, devices=candidates.of_those_here(self._registry.records(), desired.request.devices))
        reserved = frozenset(device for spec in desired.pipelines if spec is not lost for device in spec.devices)
        try:
            return await self._place_now(request, manifest, desired.name, 1, reserved)
        except NoSpace:
            if request.stages is None:
                raise
        return await self._place_now(replace(request, stages=None), manifest, desired.name, 1, reserved)

    async def standbys(self, desired: Desired, count: int) -> tuple[tuple[Plan, ...], str]:
        """The plans of a deployment with `count` standbys more, or with as many as there are; and why these are all, "" where they are not.

        Raises NotFound (the model was removed here).
        """
        plans = tuple(spec.plan for spec in desired.pipelines)
        manifest = await asyncio.to_thread(self._artifacts.load, plans[0].model)
        keys = desired.request.devices if desired.request else ()
        spares = await self._spares(manifest, keys, desired.name, {*desired.devices, *desired.standbys}, plans[0].kv_dtype)
        made = await asyncio.to_thread(with_standbys, manifest, plans, spares, count)
        return made, lacking_line(manifest, made, len(desired.standbys) + count, spares)

    async def _with_standbys(self, placed: Placed, manifest: Manifest, replaces: str, count: int) -> Placed:
        used = {DeviceId(stage.device_id) for one in placed.plans for stage in one.stages}
        spares = await self._spares(manifest, placed.request.devices, replaces, used, placed.request.kv_dtype)
        made = await asyncio.to_thread(with_standbys, manifest, placed.plans, spares, count)
        lacking = lacking_line(manifest, made, count, spares)
        told = [lacking] if lacking else []
        return replace(placed, plans=tuple(replace(one, why=(*one.why, *lines(one), *told)) for one in made), lacking=lacking)

    async def _spares(
        self, manifest: Manifest, keys: Sequence[str], replaces: str, used: Collection[DeviceId], kv_dtype: KvDtype
    ) -> list[PlannerDevice]:
        """Devices that may be used and are not."""
        records = self._registry.records()
        try:
            here = candidates.of_those_here(records, keys)
        except NotFound:
            return []
        found = candidates.candidates(records, here, replaces=replaces, reserved=used)
        known = await self._knowing_disks([device for device in found if not (device.hollow or device.runs_programs)], manifest)
        try:
            spares, _ = await asyncio.to_thread(with_programs, known, manifest, kv_dtype)
        except (InvalidInput, NoSpace):
            return []
        return spares

    async def _place_now(
        self, asked: PlanRequest, manifest: Manifest, replaces: str, replicas: int, reserved: Collection[DeviceId] = ()
    ) -> Placed:
        def found() -> list[PlannerDevice]:
            return candidates.candidates(self._registry.records(), asked.devices, replaces=replaces, reserved=reserved)

        request = asked
        online = [DeviceId(device.device_id) for device in found()]
        if not online:
            which = "no other device is online" if reserved else "no device is online"
            raise NotFound(which, advice="start some with `glmfleet sim up`; `glmfleet doctor` shows what was tried")
        await self._registry.refresh(online)
        devices = await self._knowing_disks(found(), manifest)
        devices, left_out = await asyncio.to_thread(with_programs, devices, manifest, request.kv_dtype)
        if request.devices:  # by id from here on: a label is no name that the planner knows
            request = replace(request, devices=tuple(device.device_id for device in devices))
        made = await asyncio.to_thread(plan_replicas, manifest, devices, request, replicas)
        present = await self._present(manifest, [DeviceId(stage.device_id) for one in made for stage in one.stages])
        complete = {str(device): blobs for device, blobs in _complete(present).items()}
        relayed = frozenset(record.device_id for record in self._registry.records() if record.found_by == "relay")
        plans = [with_relayed(with_present(manifest, one, complete), relayed) for one in made]
        lines = await asyncio.to_thread(compared_lines, manifest, made, devices)
        return Placed(asked, tuple(replace(one, why=(*one.why, *more, *left_out)) for one, more in zip(plans, lines, strict=True)), present)

    async def _knowing_disks(self, devices: Sequence[PlannerDevice], manifest: Manifest) -> list[PlannerDevice]:
        asked = await self._present(manifest, candidates.tight(devices, manifest))
        return candidates.with_present(devices, self._registry.records(), manifest, _complete(asked))

    async def _present(self, manifest: Manifest, devices: Sequence[DeviceId]) -> BlobStates:
        """Of the model's blobs; without the devices that do not answer."""
        digests = sorted(manifest.blobs())

        async def one(device: DeviceId) -> Mapping[Digest, BlobState] | None:
            try:
                return await self._registry.client(device).stat_blobs(digests)
            except FleetError:
                return None

        found = await together([one(device) for device in devices], at_once=ASKED_AT_ONCE)
        return {device: states for device, states in zip(devices, found, strict=True) if states is not None}


def _complete(states: BlobStates) -> dict[DeviceId, frozenset[Digest]]:
    return {device: frozenset(blob for blob, state in each.items() if state.complete) for device, each in states.items()}


def plan_replicas(manifest: Manifest, devices: Sequence[PlannerDevice], request: PlanRequest, replicas: int) -> tuple[Plan, ...]:
    """One plan after the other, each on what the ones before it left free. Raises as `plan`, and NoSpace naming the replica that has no
    room."""
    left, made = list(devices), list[Plan]()
    while len(made) < replicas:
        try:
            if made and not left:
                raise NoSpace("no device is left")
            wishes = replace(request, devices=tuple(device.device_id for device in left)) if request.devices else request
            made.append(plan(manifest, left, wishes))
        except NoSpace as error:
            if replicas == 1:
                raise
            raise NoSpace(
                f"pipeline {len(made) + 1} of {replicas}: {error.detail}",
                advice="add devices, or ask for fewer --replicas: each pipeline takes devices of its own",
            ) from error
        used = {stage.device_id for stage in made[-1].stages}
        left = [device for device in left if device.device_id not in used]
    return tuple(made)
