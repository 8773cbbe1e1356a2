"""Carrying out a deployment on the devices: push blobs, unload what is stale, load stages, take back what was loaded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fleet.background import together
from fleet.deploying.desired import Desired, PipelineSpec
from fleet.deploying.load_order import Neighbours, load_request, stage_blobs
from fleet.deploying.programs import ProgramFiles, program_files, stage_times
from fleet.deploying.reconcile import HeldStage, Unload, held_by
from fleet.deploying.views import DeployEvent
from fleet.devices.client import BlobState, DeviceClient
from fleet.devices.record import DeviceRecord
from fleet.devices.registry import Registry
from protos.errors import Corrupt, FleetError, NoSpace, TemporaryError, Unavailable
from protos.ids import DeviceId, Digest
from protos.manifest import Blob, Manifest
from protos.publishing import SignedStatement
from protos.sizes import bytes_text
from protos.v1 import device_pb2 as pb
from quantize.artifact.store import ArtifactStore

PUSHES_AT_ONCE = 8  # devices that are sent to at the same time
LOADS_AT_ONCE = 64
TAKE_BACK_SECONDS = 10.0
RETURN_SECONDS = 10.0  # what a device whose link broke has to come back
PUSH_TRIES = 3  # in a row without headway, each over a new connection

Report = Callable[[DeployEvent], None]
Vouched: TypeAlias = Callable[[str, Digest], SignedStatement | None]  # by a model's name and manifest
BlobStates: TypeAlias = Mapping[DeviceId, Mapping[Digest, BlobState]]  # by device
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageWork:
    """Stage `number` of `spec`, one of the pipelines of `desired`; `manifest` is that of its plan. `standby`: on that device, to be kept
    beside the ring."""

    desired: Desired
    spec: PipelineSpec
    manifest: Manifest
    number: int
    standby: DeviceId | None = None

    @property
    def device(self) -> DeviceId:
        return self.standby or self.spec.devices[self.number]

    @property
    def blobs(self) -> tuple[Blob, ...]:
        return stage_blobs(self.manifest, self.spec, self.number)


def stage_work(desired: Desired, spec: PipelineSpec, manifest: Manifest) -> list[StageWork]:
    """All stages of a pipeline."""
    return [StageWork(desired, spec, manifest, number) for number in range(len(spec.devices))]


class Deployer:
    """Every action may be repeated: each begins by looking at what the device holds."""

    def __init__(self, registry: Registry, artifacts: ArtifactStore, vouched: Vouched) -> None:
        """`vouched` says what the fleet's publisher says of a model's manifest. It may block."""
        self._registry = registry
        self._artifacts = artifacts
        self._vouched = vouched

    def observed(self) -> dict[DeviceId, tuple[HeldStage, ...]]:
        """What the devices that can be asked hold; one that was silent for a moment is asked all the same."""
        records = self._registry.records()
        return {record.device_id: held_by(record.description) for record in records if record.connected and record.description is not None}

    async def wait_present(self, specs: Sequence[PipelineSpec]) -> None:
        """As `check_present`, but a device whose link broke a moment ago has the time to come back."""
        await self._registry.wait_connected([device for spec in specs for device in spec.devices], RETURN_SECONDS)
        self.check_present(specs)

    def check_present(self, specs: Sequence[PipelineSpec]) -> None:
        """Raises Unavailable naming the first device of these pipelines that is not there."""
        for spec in specs:
            for device, stage in zip(spec.devices, spec.plan.stages, strict=True):
                record = self._registry.record(device)
                if record is None or not record.connected:
                    why = missing_line(stage.device_name, record, removed=self._registry.removed(device))
                    raise Unavailable(why, advice="glmfleet doctor shows what was tried")

    async def push(self, stages: Sequence[StageWork], report: Report, *, in_force: int, known: BlobStates | None = None) -> None:
        """Send to each stage's device the blobs that it lacks. Raises FleetError.

        `in_force`: the generation devices know of (0: none). `known`: what devices have said of their blobs a moment ago.
        """
        await together([self._push(stage, report, in_force, known or {}) for stage in stages], at_once=PUSHES_AT_ONCE)

    async def load(self, stages: Sequence[StageWork], report: Report) -> bool:
        """Load each stage whose device can be asked; the blobs must be there. Whether anything was loaded that was not there already.

        Give it all of a ring: a device that came back may have another address, which its neighbour must learn. Raises FleetError.
        """
        observed = self.observed()
        here = [stage for stage in stages if stage.device in observed]
        return any(await together([self._load(stage, report) for stage in here], at_once=LOADS_AT_ONCE))

    async def unload(self, unloads: Sequence[Unload]) -> None:
        async def one(unload: Unload) -> None:
            generation = pb.Generation(deployment=unload.deployment, number=unload.generation)
            await self._registry.client(unload.device).unload_stage(generation, unload.pipeline_id)

        await together([one(unload) for unload in unloads], at_once=LOADS_AT_ONCE)
        await self._registry.refresh({unload.device for unload in unloads})

    async def take_back(self, name: str, generation: int, specs: Sequence[PipelineSpec]) -> None:
        """Unload every stage of these pipelines of deployment `name`, by the word of `generation`; devices that do not answer within 10 s
        are left to reconcile."""

        async def one(spec: PipelineSpec, device: DeviceId, device_name: str) -> None:
            try:
                message = pb.Generation(deployment=name, number=generation)
                await self._registry.client(device).unload_stage(message, spec.pipeline_id)
            except FleetError as error:
                _log.warning("%s of %s could not be unloaded: %s", spec.pipeline_id, device_name, error.detail)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TAKE_BACK_SECONDS):
                unloads = [
                    one(spec, device, stage.device_name)
                    for spec in specs
                    for device, stage in zip(spec.devices, spec.plan.stages, strict=True)
                ]
                await together(unloads, at_once=LOADS_AT_ONCE)
        await self._registry.refresh({device for spec in specs for device in spec.devices})

    async def _push(self, stage: StageWork, report: Report, in_force: int, known: BlobStates) -> None:
        """Over one connection after another: what came before a link broke stays, and the rest follows."""
        device, blobs = stage.device, await self._blobs(stage)
        failures, least_bytes = 0, sum(blob.size_bytes for blob in blobs) + 1
        states = dict(known.get(device, {}))
        while True:
            client = self._registry.client(device)
            try:
                if unknown := [blob.digest for blob in blobs if blob.digest not in states]:
                    states.update(await client.stat_blobs(unknown))
                lacking, need_bytes = _lacking(states, blobs)
                if need_bytes < least_bytes:
                    failures, least_bytes = 0, need_bytes
                if lacking:
                    await self._vouch(client, stage)
                    await self._make_room(stage, blobs, need_bytes, in_force)
                    await self._send(client, stage.spec.plan.model, lacking, need_bytes, report)
                return
            except TemporaryError:
                failures, states = failures + 1, {}
                back = await self._registry.wait_connected([device], RETURN_SECONDS)
                if failures >= PUSH_TRIES or not back or self._registry.client(device) is client:
                    raise

    async def _blobs(self, stage: StageWork) -> tuple[Blob, ...]:
        """Of its weights, and of its programs where the device executes such."""
        programs = await self._programs(stage)
        return (*stage.blobs, *(programs.blobs if programs else ()))

    async def _programs(self, stage: StageWork) -> ProgramFiles | None:
        if (described := self._described(stage.device)) is None:
            return None
        plan = stage.spec.plan
        parts, shape = plan.stages[stage.number].parts, (plan.kv_dtype, plan.context)
        return await asyncio.to_thread(program_files, stage.manifest, parts, *shape, described, self._artifacts)

    def _described(self, device: DeviceId) -> pb.DeviceDescription | None:
        record = self._registry.record(device)
        return record.description if record else None

    async def _send(self, client: DeviceClient, model: str, lacking: Mapping[Blob, BlobState], need_bytes: int, report: Report) -> None:
        sent_bytes = dict.fromkeys(lacking, 0)
        for blob in lacking:

            def progress(present_bytes: int, blob: Blob = blob) -> None:
                sent_bytes[blob] = max(0, present_bytes - lacking[blob].present_bytes)
                report(DeployEvent("push", device_name=client.name, done_bytes=sum(sent_bytes.values()), total_bytes=need_bytes))

            try:
                path = self._artifacts.blob_path(blob.digest)
                await client.put_blob(blob.digest, path, blob.size_bytes, progress=progress, known=lacking[blob])
            except Corrupt:
                # Changed on the way, or damaged on this disk already: then this says which part, and what to do.
                await asyncio.to_thread(self._artifacts.verify, model)
                raise

    async def _make_room(self, stage: StageWork, blobs: Sequence[Blob], need_bytes: int, in_force: int) -> None:
        """Blobs on a device are a cache: what no stage uses is dropped only when the room is needed. Raises NoSpace."""
        client = self._registry.client(stage.device)
        free_bytes = (await client.describe()).storage_free_bytes
        if need_bytes <= free_bytes:
            return
        # By the word of the generation in force: the new one must stay unknown to devices until it is stored.
        word = pb.Generation(deployment=stage.desired.name, number=in_force or stage.desired.generation)
        await client.retain_blobs(word, [blob.digest for blob in blobs])
        free_bytes = (await client.describe()).storage_free_bytes
        if need_bytes > free_bytes:
            raise NoSpace(
                f"{client.name}: its share needs {bytes_text(need_bytes)} more of disk, {bytes_text(free_bytes)} are free",
                advice="free some disk on the device, or spread the model over more devices with --stages",
            )

    async def _vouch(self, client: DeviceClient, stage: StageWork) -> None:
        """Tell the device whose model it is; of one that nobody vouches for a device that asks for it will say so."""

        def said() -> tuple[SignedStatement | None, bytes]:
            return self._vouched(stage.spec.plan.model, stage.manifest.digest), stage.manifest.to_bytes()

        signed, manifest = await asyncio.to_thread(said)
        if signed is not None:
            await client.put_manifest(signed, manifest)

    async def _load(self, stage: StageWork, report: Report) -> bool:
        client = self._registry.client(stage.device)
        ring = Neighbours(self._hop(stage, -1), self._hop(stage, +1)) if len(stage.spec.devices) > 1 else None
        described, programs = self._described(stage.device), await self._programs(stage)
        request = await asyncio.to_thread(
            load_request, stage.manifest, stage.desired, stage.spec, stage.number, ring, self._artifacts.blob_folder, programs
        )
        if described and (times := await asyncio.to_thread(stage_times, stage.manifest, request, described)):
            request.times.CopyFrom(times)
        request.standby = stage.standby is not None
        self._add_mirror(request, stage)
        await self._vouch(client, stage)
        start = time.perf_counter()
        try:
            reply = await client.load_stage(request)
        except Corrupt as error:
            raise _of_part(error, stage.manifest, stage.spec.plan.stages[stage.number].parts) from error
        report(DeployEvent("load", device_name=client.name, seconds=time.perf_counter() - start))
        return reply.load_seconds > 0

    def _add_mirror(self, request: pb.LoadStageRequest, stage: StageWork) -> None:
        """Who sends the rows of the stage's cache to whom: the device in the ring to the first that stands by for it."""
        ring, first = stage.spec.devices[stage.number], stage.spec.plan.standby_of(stage.number)
        if first is None or stage.standby not in (None, first):
            return
        record = self._registry.record(ring if stage.standby else first)
        if record is None:
            return
        if stage.standby:
            request.mirror_from.CopyFrom(pb.Hop(device_id=ring, gateway_id=record.gateway or ""))
        else:
            request.mirror_to.CopyFrom(_hop(first, record))

    def _hop(self, stage: StageWork, step: Literal[-1, 1]) -> pb.Hop:
        """Where the next stage of the ring is, or the one before. Raises Unavailable."""
        ring = stage.spec.devices
        place = (stage.number + step) % len(ring)
        record = self._registry.record(ring[place])
        if record is None:
            name, removed = stage.spec.plan.stages[place].device_name, self._registry.removed(ring[place])
            raise Unavailable(missing_line(name, None, removed=removed))
        return _hop(ring[place], record)


def _hop(device: DeviceId, record: DeviceRecord) -> pb.Hop:
    addresses = record.addresses
    return pb.Hop(device_id=device, address=addresses[0], addresses=addresses, gateway_id=record.gateway or "")


def missing_line(name: str, record: DeviceRecord | None, *, removed: bool) -> str:
    """Why the device called `name` cannot be asked, in one line; `removed`: it was taken out of the fleet."""
    if removed:
        return f"{name} was removed from the fleet"
    return f"{name}: not found yet" if record is None else f"{name} is {record.state}: {record.detail or 'it is being dialled'}"


def _of_part(error: Corrupt, manifest: Manifest, parts: Sequence[str]) -> Corrupt:
    """A device knows blobs by their digests only; people know parts."""
    named = [part for part in parts if any(blob.digest == error.digest for blob in manifest.part(part).variants[0].blobs)]
    if not named:
        return error
    return Corrupt(f"{error.cause} ({', '.join(named)})", advice=error.advice, route=error.route, digest=error.digest)


def _lacking(states: Mapping[Digest, BlobState], blobs: Sequence[Blob]) -> tuple[dict[Blob, BlobState], int]:
    """Those that the device has not whole, with what is there of each; and the bytes still to send."""
    lacking = {blob: states[blob.digest] for blob in blobs if not states[blob.digest].complete}
    return lacking, sum(blob.size_bytes - state.present_bytes for blob, state in lacking.items())
