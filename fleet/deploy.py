"""Carrying out a deployment on the devices: push blobs, unload what is stale, load stages, take back what was loaded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from fleet.background import together
from fleet.desired import Desired
from fleet.reconcile import Await, Held, Load, Unload, held_by, reconcile, stale
from fleet.registry import Registry
from fleet.stage_request import load_request, stage_blobs
from fleet.views import DeployEvent
from protos.errors import FleetError, NoSpace, Unavailable
from protos.ids import DeviceId
from protos.manifest import Blob, Manifest
from protos.v1 import device_pb2 as pb
from quantize.artifact import ArtifactStore

PUSHES_AT_ONCE = 8  # devices that are sent to at the same time
LOADS_AT_ONCE = 64
TAKE_BACK_SECONDS = 10.0

Tell = Callable[[DeployEvent], None]
_log = logging.getLogger(__name__)


class Deployer:
    """Every action may be repeated: each begins by looking at what the device holds."""

    def __init__(self, registry: Registry, artifacts: ArtifactStore) -> None:
        self._registry = registry
        self._artifacts = artifacts

    def observed(self) -> dict[DeviceId, tuple[Held, ...]]:
        """What the devices that can be asked hold; one that was silent for a moment is asked all the same."""
        return {
            record.device_id: held_by(record.description)
            for record in self._registry.records()
            if record.connected and record.description is not None
        }

    def check_present(self, desired: Desired) -> None:
        """Raises Unavailable naming the first device of the plan that is not there."""
        here = self.observed()
        for action in reconcile(desired, here):
            if isinstance(action, Await):
                raise Unavailable(self.missing(desired, action.stage), advice="glmfleet doctor tells what was tried")

    def missing(self, desired: Desired, stage: int) -> str:
        name = desired.plan.stages[stage].device_name
        record = self._registry.record(desired.devices[stage])
        return f"{name}: not found yet" if record is None else f"{name} is {record.state}: {record.detail or 'it is being dialled'}"

    async def push(self, desired: Desired, manifest: Manifest, stages: Iterable[int], tell: Tell, *, in_force: int) -> None:
        """Send to each stage's device the blobs that it lacks. `in_force`: the generation devices know of (0: none). Raises FleetError."""
        await together([self._push(desired, manifest, stage, tell, in_force) for stage in stages], at_once=PUSHES_AT_ONCE)

    async def settle(self, desired: Desired, manifest: Manifest, tell: Tell) -> bool:
        """Unload what is stale, then load what is missing; the blobs must be there. True if anything was loaded. Raises FleetError."""
        observed = self.observed()
        actions = reconcile(desired, observed)
        await self.unload([action for action in actions if isinstance(action, Unload)])
        if not any(isinstance(action, Load) for action in actions):
            return False
        # All of the ring: a device that came back may have another address, which its neighbour must learn; the others load nothing again.
        stages = [stage for stage, device in enumerate(desired.devices) if device in observed]
        try:
            await together([self._load(desired, manifest, stage, tell) for stage in stages], at_once=LOADS_AT_ONCE)
        finally:
            await self._registry.refresh(desired.devices)
        return True

    async def unload(self, unloads: Sequence[Unload]) -> None:
        async def one(unload: Unload) -> None:
            generation = pb.Generation(deployment=unload.deployment, number=unload.generation)
            await self._registry.client(unload.device).unload_stage(generation, unload.pipeline_id)

        await together([one(unload) for unload in unloads], at_once=LOADS_AT_ONCE)
        await self._registry.refresh({unload.device for unload in unloads})

    async def take_back(self, desired: Desired, generation: int) -> None:
        """Unload every stage of `desired`, by the word of `generation`; devices that do not answer within 10 s are left to reconcile."""

        async def one(device: DeviceId, name: str) -> None:
            try:
                message = pb.Generation(deployment=desired.name, number=generation)
                await self._registry.client(device).unload_stage(message, desired.pipeline_id)
            except FleetError as error:
                _log.warning("%s of %s could not be unloaded: %s", desired.pipeline_id, name, error.detail)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TAKE_BACK_SECONDS):
                pairs = zip(desired.devices, desired.plan.stages, strict=True)
                await together([one(device, stage.device_name) for device, stage in pairs], at_once=LOADS_AT_ONCE)
        await self._registry.refresh(desired.devices)

    def stale_of(self, name: str, generation: int) -> list[Unload]:
        """Stages of a deployment that is wanted no more."""
        return stale(name, generation, self.observed(), keep=None)

    async def _push(self, desired: Desired, manifest: Manifest, stage: int, tell: Tell, in_force: int) -> None:
        client = self._registry.client(desired.devices[stage])
        blobs = stage_blobs(manifest, desired, stage)
        states = await client.stat_blobs([blob.digest for blob in blobs])
        lacking = [blob for blob in blobs if not states[blob.digest].complete]
        there = {blob.digest: states[blob.digest].present_bytes for blob in lacking}
        need_bytes = sum(blob.size_bytes - there[blob.digest] for blob in lacking)
        if not lacking:
            return
        await self._make_room(desired, stage, blobs, need_bytes, in_force)
        sent_bytes = dict.fromkeys(there, 0)
        for blob in lacking:

            def progress(present_bytes: int, blob: Blob = blob) -> None:
                sent_bytes[blob.digest] = max(0, present_bytes - there[blob.digest])
                tell(DeployEvent("push", device_name=client.name, done_bytes=sum(sent_bytes.values()), total_bytes=need_bytes))

            await client.put_blob(blob.digest, self._artifacts.blob_path(blob.digest), blob.size_bytes, progress=progress)

    async def _make_room(self, desired: Desired, stage: int, blobs: Sequence[Blob], need_bytes: int, in_force: int) -> None:
        """Blobs on a device are a cache: what no stage uses is dropped only when the room is needed. Raises NoSpace."""
        client = self._registry.client(desired.devices[stage])
        free_bytes = (await client.describe()).storage_free_bytes
        if need_bytes <= free_bytes:
            return
        # By the word of the generation in force: the new one must stay unknown to devices until it is stored.
        word = pb.Generation(deployment=desired.name, number=in_force or desired.generation)
        await client.retain_blobs(word, [blob.digest for blob in blobs])
        free_bytes = (await client.describe()).storage_free_bytes
        if need_bytes > free_bytes:
            raise NoSpace(
                f"{client.name}: the model's share needs {need_bytes} more bytes of disk, {free_bytes} are free",
                advice="free some disk on the device, or spread the model over more devices with --stages",
            )

    async def _load(self, desired: Desired, manifest: Manifest, stage: int, tell: Tell) -> None:
        client = self._registry.client(desired.devices[stage])
        request = await asyncio.to_thread(load_request, manifest, desired, stage, self._next_hop(desired, stage))
        start = time.perf_counter()
        await client.load_stage(request)
        tell(DeployEvent("load", device_name=client.name, seconds=time.perf_counter() - start))

    def _next_hop(self, desired: Desired, stage: int) -> pb.Hop | None:
        ring = desired.devices
        if len(ring) == 1:
            return None
        following = ring[(stage + 1) % len(ring)]
        record = self._registry.record(following)
        if record is None:
            raise Unavailable(f"{desired.plan.stages[(stage + 1) % len(ring)].device_name}: not found yet")
        return pb.Hop(device_id=following, address=record.address)
