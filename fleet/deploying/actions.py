"""Carrying out a deployment on the devices: push blobs, unload what is stale, load stages, take back what was loaded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from fleet.background import together
from fleet.deploying.desired import Desired
from fleet.deploying.load_order import load_request, stage_blobs
from fleet.deploying.reconcile import Await, Held, Load, Unload, held_by, reconcile, stale
from fleet.deploying.views import DeployEvent
from fleet.devices.client import DeviceClient
from fleet.devices.registry import Registry
from fleet.planning.why import size
from protos.errors import Corrupt, FleetError, NoSpace, TemporaryError, Unavailable
from protos.ids import DeviceId
from protos.manifest import Blob, Manifest
from protos.v1 import device_pb2 as pb
from quantize.artifact.store import ArtifactStore

PUSHES_AT_ONCE = 8  # devices that are sent to at the same time
LOADS_AT_ONCE = 64
TAKE_BACK_SECONDS = 10.0
RETURN_SECONDS = 10.0  # what a device whose link broke has to come back
PUSH_TRIES = 3  # in a row without headway, each over a new connection

Tell = Callable[[DeployEvent], None]
_log = logging.getLogger(__name__)


class Deployer:
    """Every action may be repeated: each begins by looking at what the device holds."""

    def __init__(self, registry: Registry, artifacts: ArtifactStore) -> None:
        self._registry = registry
        self._artifacts = artifacts

    def observed(self, devices: Iterable[DeviceId] | None = None) -> dict[DeviceId, tuple[Held, ...]]:
        """What the devices (None: all) that can be asked hold; one that was silent for a moment is asked all the same."""
        records = self._registry.records() if devices is None else filter(None, map(self._registry.record, devices))
        return {record.device_id: held_by(record.description) for record in records if record.connected and record.description is not None}

    async def wait_present(self, desired: Desired) -> None:
        """As `check_present`, but a device whose link broke a moment ago has the time to come back."""
        await self._registry.wait_connected(desired.devices, RETURN_SECONDS)
        self.check_present(desired)

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

    def addresses(self, desired: Desired) -> tuple[str, ...] | None:
        """Where the devices of the ring answer now; None unless all do."""
        records = [self._registry.record(device) for device in desired.devices]
        if not all(record is not None and record.connected for record in records):
            return None
        return tuple(record.address for record in records if record is not None)

    async def settle(self, desired: Desired, manifest: Manifest, tell: Tell, *, moved: bool = False) -> bool:
        """Unload what is stale, then load what is missing; the blobs must be there. True if anything was loaded. Raises FleetError.

        `moved`: devices have other addresses than their neighbours were told. What they hold then is for the caller to ask.
        """
        observed = self.observed()
        actions = reconcile(desired, observed)
        await self.unload([action for action in actions if isinstance(action, Unload)])
        if not (moved or any(isinstance(action, Load) for action in actions)):
            return False
        # All of the ring: a device that came back may have another address, which its neighbour must learn; the others load nothing again.
        stages = [stage for stage, device in enumerate(desired.devices) if device in observed]
        await together([self._load(desired, manifest, stage, tell) for stage in stages], at_once=LOADS_AT_ONCE)
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
        """Over one connection after another: what came before a link broke stays, and the rest follows."""
        device, blobs = desired.devices[stage], stage_blobs(manifest, desired, stage)
        failures, least_bytes = 0, sum(blob.size_bytes for blob in blobs) + 1
        while True:
            client = self._registry.client(device)
            try:
                lacking, need_bytes = await _lacking(client, blobs)
                if need_bytes < least_bytes:
                    failures, least_bytes = 0, need_bytes
                if lacking:
                    await self._make_room(desired, stage, blobs, need_bytes, in_force)
                    await self._send(client, desired.plan.model, lacking, need_bytes, tell)
                return
            except TemporaryError:
                failures += 1
                back = await self._registry.wait_connected([device], RETURN_SECONDS)
                if failures >= PUSH_TRIES or not back or self._registry.client(device) is client:
                    raise

    async def _send(self, client: DeviceClient, model: str, lacking: Mapping[Blob, int], need_bytes: int, tell: Tell) -> None:
        sent_bytes = dict.fromkeys(lacking, 0)
        for blob in lacking:

            def progress(present_bytes: int, blob: Blob = blob) -> None:
                sent_bytes[blob] = max(0, present_bytes - lacking[blob])
                tell(DeployEvent("push", device_name=client.name, done_bytes=sum(sent_bytes.values()), total_bytes=need_bytes))

            try:
                await client.put_blob(blob.digest, self._artifacts.blob_path(blob.digest), blob.size_bytes, progress=progress)
            except Corrupt:
                # Changed on the way, or damaged on this disk already: then this says which part, and what to do.
                await asyncio.to_thread(self._artifacts.verify, model)
                raise

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
                f"{client.name}: its share needs {size(need_bytes)} more of disk, {size(free_bytes)} are free",
                advice="free some disk on the device, or spread the model over more devices with --stages",
            )

    async def _load(self, desired: Desired, manifest: Manifest, stage: int, tell: Tell) -> None:
        client = self._registry.client(desired.devices[stage])
        hop = self._next_hop(desired, stage)
        request = await asyncio.to_thread(load_request, manifest, desired, stage, hop, self._artifacts.blob_folder)
        start = time.perf_counter()
        try:
            await client.load_stage(request)
        except Corrupt as error:
            raise _of_part(error, manifest, desired.plan.stages[stage].parts) from error
        tell(DeployEvent("load", device_name=client.name, seconds=time.perf_counter() - start))

    def _next_hop(self, desired: Desired, stage: int) -> pb.Hop | None:
        ring = desired.devices
        if len(ring) == 1:
            return None
        following = ring[(stage + 1) % len(ring)]
        record = self._registry.record(following)
        if record is None:
            raise Unavailable(f"{desired.plan.stages[(stage + 1) % len(ring)].device_name}: not found yet")
        return pb.Hop(device_id=following, address=record.address, gateway_id=record.gateway or "")


def _of_part(error: Corrupt, manifest: Manifest, parts: Sequence[str]) -> Corrupt:
    """A device knows blobs by their digests only; people know parts."""
    named = [part for part in parts if any(blob.digest[:12] in error.detail for blob in manifest.part(part).variants[0].blobs)]
    return Corrupt(f"{error.detail} ({', '.join(named)})", advice=error.advice) if named else error


async def _lacking(client: DeviceClient, blobs: Sequence[Blob]) -> tuple[dict[Blob, int], int]:
    """Those that the device has not whole, with the bytes of each that are there; and the bytes still to send."""
    states = await client.stat_blobs([blob.digest for blob in blobs])
    lacking = {blob: states[blob.digest].present_bytes for blob in blobs if not states[blob.digest].complete}
    return lacking, sum(blob.size_bytes - present_bytes for blob, present_bytes in lacking.items())
