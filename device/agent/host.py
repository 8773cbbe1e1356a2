"""The stages this device holds: loaded, replaced and unloaded by generation, within its memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from types import TracebackType

from device.blobs import Blobs
from device.engine.engine import Engine, OpenStage, Output
from device.engine.opening import open_stage
from device.engine.prepacked import Prepacked, PrepackedStages
from device.hardware import Hardware
from device.memory import give_back, let_go
from device.pipeline.accounts import ModelledClock, WorkCounter
from device.pipeline.doubts import Doubts
from device.pipeline.head import Head
from device.pipeline.mirror import Mirror
from device.pipeline.stage import Stage
from device.stage_spec import DeploymentGeneration, StageSpec
from device.tasks import in_thread
from protos.errors import Conflict, Corrupt, InvalidInput, NoSpace, NotFound
from protos.ids import DeviceId, Digest, PipelineId
from protos.net.transport import Credentials
from protos.silence import RECOVERY_SECONDS
from protos.sizes import bytes_text
from protos.v1 import device_pb2, pipeline_pb2

# How long sequences that no ring reaches keep their cache: as long as a request whose ring broke waits for another (fleet/answering).
ORPHAN_SECONDS = RECOVERY_SECONDS

_log = logging.getLogger(__name__)


@dataclass
class Loaded:
    stage: Stage
    output: Output | None  # of stage 0
    saver: asyncio.Task[bool] | None  # of its prepacked weights
    head: Head | None = None  # of stage 0, in a ring
    mirror: Mirror | None = None  # in a ring, where a device stands by for it


class StageHost:
    """An async context manager; leaving it unloads everything."""

    def __init__(
        self,
        device: DeviceId,
        hardware: Hardware,
        blobs: Blobs,
        credentials: Credentials | None,
        prepacked: PrepackedStages | None = None,
        opener: OpenStage = open_stage,
    ) -> None:
        """Without `prepacked` every load packs the weights anew."""
        self._device = device
        self._hardware = hardware
        self._blobs = blobs
        self._credentials = credentials
        self._prepacked = prepacked
        self._opener = opener
        self._clock = ModelledClock()
        self.work = WorkCounter()
        self.doubts = Doubts()
        self._loaded: dict[PipelineId, Loaded] = {}
        self._standbys: dict[tuple[PipelineId, int], Loaded] = {}  # by stage; no ring reaches them
        self._loading: StageSpec | None = None
        self._highest: dict[str, int] = {}
        self._changing = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> StageHost:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._sweeper:
            self._sweeper.cancel()
        for pipeline in {*self._loaded, *(pipeline for pipeline, _ in self._standbys)}:
            await self._drop(pipeline)

    @property
    def loaded(self) -> list[Loaded]:
        """Those in a ring."""
        return list(self._loaded.values())

    @property
    def memory_used_bytes(self) -> int:
        """Promised, from the begin of a load on: its memory is being filled."""
        loading = self._loading.memory_bytes if self._loading else 0
        return loading + sum(spec.memory_bytes for spec in self._specs())

    def droppable_bytes(self) -> int:
        """Of disk: what `retain_blobs` would free, if it were to keep nothing but what loaded stages use."""
        specs = self._specs()
        unused = self._prepacked.unused_bytes(specs) if self._prepacked and not self._blobs.frozen else 0
        return self._blobs.droppable_bytes(_blobs_of(specs)) + unused

    async def retain_blobs(self, generation: DeploymentGeneration, keep: Set[Digest]) -> int:
        """Drop every blob that is neither in `keep` nor used by a stage that is loaded or loading; the bytes freed. Raises Conflict."""
        async with self._changing:
            self.admit(generation)
            specs = self._specs()
            freed = await in_thread(self._blobs.retain, keep | _blobs_of(specs))
            # Space is wanted: what only saves time goes too.
            return freed + (await in_thread(self._prepacked.retain, specs) if self._prepacked else 0)

    async def load(self, spec: StageSpec, *, standby: bool = False) -> float:
        """Make this stage ready; seconds it took, 0 when it was loaded already and keeps its caches.

        `standby`: keep it beside the rings, until a load without puts it into its own. One that is here already, in its ring under another
        epoch or as a standby, goes on with its weights and with empty caches. Raises Conflict for an older generation, NotFound for a
        missing blob, Corrupt for a changed one, InvalidInput, and NoSpace: then alone the stage that this one would replace goes on.
        """
        start = time.perf_counter()
        if self._hardware.info.timed_by_programs and spec.times is None:
            raise InvalidInput(
                "this device is timed by programs, and was told of none for the stage", advice="its coordinator is older: update it"
            )
        async with self._changing:
            self.admit(spec.generation)
            done = await (self._keep_standby(spec) if standby else self._put_into_ring(spec))
        return time.perf_counter() - start if done else 0.0

    async def unload(self, generation: DeploymentGeneration, pipeline: PipelineId) -> None:
        """With what is kept of it beside the rings. Idempotent. Raises Conflict for an older generation."""
        async with self._changing:
            self.admit(generation)
            await self._drop(pipeline)

    def admit(self, generation: DeploymentGeneration) -> None:
        """Remember the highest generation of each deployment. Raises Conflict for a lower one."""
        highest = self._highest.get(generation.deployment, 0)
        if generation.number < highest:
            raise Conflict(
                f"deployment {generation.deployment} is at generation {highest} here; {generation.number} is older",
                advice="another coordinator has taken over: is one running elsewhere?",
            )
        self._highest[generation.deployment] = generation.number

    def stage_for(self, opening: pipeline_pb2.FlowOpen) -> Loaded:
        """The stage a ring's stream is for. Raises NotFound, or Conflict when it is of another artifact, epoch or wire type."""
        loaded = self._find(opening.pipeline_id, opening.manifest_digest, opening.epoch)
        if loaded.stage.spec.stage != opening.to_stage:
            raise Conflict(f"this device holds stage {loaded.stage.spec.stage} of {opening.pipeline_id}, not {opening.to_stage}")
        if (given := opening.wire_dtype or "float32") != (wanted := loaded.stage.spec.shape.wire_dtype):
            raise Conflict(f"rows of {opening.pipeline_id} would come as {given}; stage {opening.to_stage} here takes {wanted}")
        return loaded

    def standby_for(self, opening: pipeline_pb2.MirrorOpen) -> Stage:
        """The stage that stands by for another device's. Raises NotFound, or Conflict when it is of another artifact."""
        held = self._standbys.get((PipelineId(opening.pipeline_id), opening.stage))
        if held is None:
            raise NotFound(f"stage {opening.stage} of pipeline {opening.pipeline_id} does not stand by here")
        _check_manifest(held.stage.spec, opening.manifest_digest)
        return held.stage

    def head_for(self, attach: pipeline_pb2.Attach) -> Head:
        """Raises as `stage_for`, and Conflict when this device is not the head."""
        loaded = self._find(attach.pipeline_id, attach.manifest_digest, attach.epoch)
        if loaded.head is None:
            raise Conflict(f"this device is not the head of {attach.pipeline_id}")
        return loaded.head

    def statuses(self) -> list[device_pb2.StageStatus]:
        return [_status(loaded) for loaded in self._loaded.values()] + [_status(one, standby=True) for one in self._standbys.values()]

    def _find(self, pipeline: str, manifest: str, epoch: int) -> Loaded:
        loaded = self._loaded.get(PipelineId(pipeline))
        if loaded is None:
            raise NotFound(f"no stage of pipeline {pipeline} is loaded here")
        spec = loaded.stage.spec
        if spec.epoch != epoch:
            raise Conflict(f"pipeline {pipeline} is at epoch {spec.epoch} here, the call is for epoch {epoch}")
        _check_manifest(spec, manifest)
        return loaded

    async def _put_into_ring(self, spec: StageSpec) -> bool:
        """Whether there was anything to do."""
        held = self._loaded.get(spec.pipeline)
        if held and _same(held.stage.spec, spec):
            if held.stage.spec.epoch == spec.epoch:
                held.stage.go_on_as(spec)  # the neighbour may be elsewhere now
                await self._mirror(held)
                return False
            await _leave_ring(held)
        elif (standby := self._standbys.get((spec.pipeline, spec.stage))) and _same(standby.stage.spec, spec):
            held = self._standbys.pop((spec.pipeline, spec.stage))
            await self._drop(spec.pipeline)
        else:
            replaced = [*self._standbys_of(spec.pipeline), *([held] if held else [])]
            self._check_memory(spec, sum(one.stage.spec.memory_bytes for one in replaced))
            await self._drop(spec.pipeline)
            held = await self._open_new(spec)
        stage = held.stage.moved(spec)
        head = await Head(stage, held.output, self._credentials).__aenter__() if held.output else None
        self._loaded[spec.pipeline] = loaded = Loaded(stage, held.output, held.saver, head)
        await self._mirror(loaded)
        return True

    async def _mirror(self, loaded: Loaded) -> None:
        """To whom its order names."""
        wanted = loaded.stage.spec.mirror_to
        if loaded.mirror and loaded.mirror.to != wanted:
            await loaded.mirror.end()
            loaded.mirror = None
        if loaded.mirror:
            loaded.mirror.wake()
        elif wanted:
            loaded.mirror = Mirror(loaded.stage, wanted, self._credentials)

    async def _keep_standby(self, spec: StageSpec) -> bool:
        key = (spec.pipeline, spec.stage)
        held = self._standbys.get(key)
        if held and _same(held.stage.spec, spec):
            held.stage.go_on_as(spec)
            return False
        self._check_memory(spec, held.stage.spec.memory_bytes if held else 0)
        if held:
            await _end(self._standbys.pop(key))
        self._standbys[key] = await self._open_new(spec)
        return True

    def _check_memory(self, spec: StageSpec, replaced_bytes: int) -> None:
        """Raises NoSpace. `replaced_bytes`: of stages that make way for it."""
        free = self._hardware.memory_bytes - self.memory_used_bytes + replaced_bytes
        if spec.memory_bytes > free:
            lacking = bytes_text(spec.memory_bytes - free)
            raise NoSpace(
                f"stage {spec.stage} needs {bytes_text(spec.memory_bytes)} (weights and KV cache), {lacking} more than is free",
                advice="plan again with more devices, a shorter --context or fewer --slots",
            )

    async def _open_new(self, spec: StageSpec) -> Loaded:
        self._loading = spec
        try:
            stage, output = await in_thread(self._build, spec)
        except BaseException as error:
            let_go(error)
            await in_thread(give_back)
            raise
        finally:
            self._loading = None
        _log.info(
            "stage %d of %s is loaded: layers %d to %d", spec.stage, spec.pipeline, spec.shape.layers.start, spec.shape.layers.stop - 1
        )
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep(), name="orphan sweeper")
        return Loaded(stage, output, self._save(spec))

    def _standbys_of(self, pipeline: PipelineId) -> list[Loaded]:
        return [held for (its, _), held in self._standbys.items() if its == pipeline]

    def _build(self, spec: StageSpec) -> tuple[Stage, Output | None]:
        threads = self._hardware.info.threads
        saved = self._prepacked.find(spec, threads) if self._prepacked else None
        for digest in spec.blobs:
            # What is saved has been verified itself; then a blob must only be here.
            if saved is None or not self._blobs.has(digest):
                self._blobs.verify(digest)
        try:
            engine, output = self._open(spec, saved)
        except (Corrupt, InvalidInput) as error:
            if self._prepacked is None or saved is None:
                raise
            self._prepacked.drop(spec, error)
            for digest in spec.blobs:
                self._blobs.verify(digest)
            engine, output = self._open(spec, None)
        return Stage(spec, engine, self._hardware, self._device, self._clock, self.work, doubts=self.doubts), output

    def _open(self, spec: StageSpec, saved: Prepacked | None) -> tuple[Engine, Output | None]:
        return self._opener(spec, self._blobs.folder, self._hardware.info.threads, saved)

    def _specs(self) -> list[StageSpec]:
        return [loaded.stage.spec for loaded in (*self._loaded.values(), *self._standbys.values())]

    def _save(self, spec: StageSpec) -> asyncio.Task[bool] | None:
        if self._prepacked is None:
            return None
        saving = self._prepacked.save(spec, self._blobs.folder, self._specs)
        return asyncio.create_task(saving, name=f"save prepacked weights of {spec.pipeline}")

    async def _drop(self, pipeline: PipelineId) -> None:
        if await self._take_down(pipeline):
            await in_thread(give_back)

    async def _take_down(self, pipeline: PipelineId) -> bool:
        gone = self._standbys_of(pipeline)
        self._standbys = {key: held for key, held in self._standbys.items() if key[0] != pipeline}
        if loaded := self._loaded.pop(pipeline, None):
            gone.append(loaded)
        for one in gone:
            await _end(one)
            _log.info("stage %d of %s is unloaded", one.stage.spec.stage, pipeline)
        return bool(gone)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(ORPHAN_SECONDS / 10)
            _free_orphans(self.loaded, time.monotonic())


async def _end(loaded: Loaded) -> None:
    if loaded.saver:
        loaded.saver.cancel()
        await asyncio.gather(loaded.saver, return_exceptions=True)
    await _leave_ring(loaded)


async def _leave_ring(loaded: Loaded) -> None:
    """Its streams end; weights stay."""
    loaded.stage.unload()
    if loaded.mirror:
        await loaded.mirror.end()
    if loaded.head:
        await loaded.head.__aexit__(None, None, None)


def _same(held: StageSpec, wanted: StageSpec) -> bool:
    """But for the ring that it is in."""
    ring = replace(
        held,
        next=wanted.next,
        previous=wanted.previous,
        mirror_to=wanted.mirror_to,
        mirror_from=wanted.mirror_from,
        generation=wanted.generation,
        epoch=wanted.epoch,
    )
    return ring == wanted


def _check_manifest(spec: StageSpec, manifest: str) -> None:
    if spec.manifest != manifest:
        raise Conflict(f"pipeline {spec.pipeline} is of artifact {spec.manifest[:12]} here, the call is for {manifest[:12]}")


def _free_orphans(held: Iterable[Loaded], now: float) -> None:
    """A function of its own: a task that sleeps with a stage in a variable would keep the whole of it."""
    for loaded in held:
        since = loaded.stage.orphaned_since
        if since is not None and now - since > ORPHAN_SECONDS:
            loaded.stage.free_all()
            loaded.stage.orphaned_since = None


def _status(loaded: Loaded, *, standby: bool = False) -> device_pb2.StageStatus:
    spec = loaded.stage.spec
    return device_pb2.StageStatus(
        pipeline_id=spec.pipeline,
        manifest_digest=spec.manifest,
        epoch=spec.epoch,
        stage=spec.stage,
        parts=spec.parts,
        generation=device_pb2.Generation(deployment=spec.generation.deployment, number=spec.generation.number),
        open_sequences=loaded.head.open_sequences if loaded.head else loaded.stage.open_sequences,
        memory_bytes=spec.memory_bytes,
        standby=standby,
    )


def _blobs_of(specs: Iterable[StageSpec]) -> set[Digest]:
    return {digest for spec in specs for digest in spec.blobs}
