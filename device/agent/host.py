"""The stages this device holds: loaded, replaced and unloaded by generation, within its memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from types import TracebackType

from device.blobs import Blobs
from device.engine.opening import Engine, OpenStage, Output, open_stage
from device.engine.prepacked import Prepacked, PrepackedStages
from device.hardware import Hardware
from device.memory import give_back, let_go
from device.pipeline.accounts import ModelledClock, WorkCounter
from device.pipeline.doubts import Doubts
from device.pipeline.head import Head
from device.pipeline.stage import Stage
from device.stage_spec import DeploymentGeneration, StageSpec
from device.tasks import in_thread
from protos.errors import Conflict, Corrupt, InvalidInput, NoSpace, NotFound
from protos.ids import DeviceId, Digest, PipelineId
from protos.net.transport import Credentials
from protos.sizes import bytes_text
from protos.v1 import device_pb2, pipeline_pb2

# How long sequences that no ring reaches keep their cache: long enough to adopt them again after a neighbour's restart.
ORPHAN_SECONDS = 30.0


@dataclass
class Loaded:
    stage: Stage
    head: Head | None  # of stage 0
    saver: asyncio.Task[bool] | None  # of its prepacked weights


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
        self._loading: StageSpec | None = None
        self._highest: dict[str, int] = {}
        self._changing = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> StageHost:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._sweeper:
            self._sweeper.cancel()
        for pipeline in list(self._loaded):
            await self._drop(pipeline)

    @property
    def loaded(self) -> list[Loaded]:
        return list(self._loaded.values())

    @property
    def memory_used_bytes(self) -> int:
        """Promised, from the begin of a load on: its memory is being filled."""
        loading = self._loading.memory_bytes if self._loading else 0
        return loading + sum(loaded.stage.spec.memory_bytes for loaded in self._loaded.values())

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

    async def load(self, spec: StageSpec) -> float:
        """Make this stage ready; seconds it took, 0 when it was loaded already.

        Raises Conflict for an older generation, NotFound for a missing blob, Corrupt for a changed one, InvalidInput, and NoSpace:
        then alone the stage that this one would replace goes on.
        """
        start = time.perf_counter()
        async with self._changing:
            self.admit(spec.generation)
            present = self._loaded.get(spec.pipeline)
            if present and replace(present.stage.spec, next=spec.next, previous=spec.previous, generation=spec.generation) == spec:
                present.stage.go_on_as(spec)  # the neighbour may be elsewhere now
                return 0.0
            free = self._hardware.memory_bytes - self.memory_used_bytes + (present.stage.spec.memory_bytes if present else 0)
            if spec.memory_bytes > free:
                lacking = bytes_text(spec.memory_bytes - free)
                raise NoSpace(
                    f"stage {spec.stage} needs {bytes_text(spec.memory_bytes)} (weights and KV cache), {lacking} more than is free",
                    advice="plan again with more devices, a shorter --context or fewer --slots",
                )
            await self._drop(spec.pipeline)
            self._loading = spec
            try:
                stage, output = await in_thread(self._build, spec)
            except BaseException as error:
                let_go(error)
                await in_thread(give_back)
                raise
            finally:
                self._loading = None
            head = await Head(stage, output, self._credentials).__aenter__() if output else None
            self._loaded[spec.pipeline] = Loaded(stage, head, self._save(spec))
            if self._sweeper is None:
                self._sweeper = asyncio.create_task(self._sweep(), name="orphan sweeper")
        return time.perf_counter() - start

    async def unload(self, generation: DeploymentGeneration, pipeline: PipelineId) -> None:
        """Idempotent. Raises Conflict for an older generation."""
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

    def head_for(self, attach: pipeline_pb2.Attach) -> Head:
        """Raises as `stage_for`, and Conflict when this device is not the head."""
        loaded = self._find(attach.pipeline_id, attach.manifest_digest, attach.epoch)
        if loaded.head is None:
            raise Conflict(f"this device is not the head of {attach.pipeline_id}")
        return loaded.head

    def statuses(self) -> list[device_pb2.StageStatus]:
        return [_status(loaded) for loaded in self._loaded.values()]

    def _find(self, pipeline: str, manifest: str, epoch: int) -> Loaded:
        loaded = self._loaded.get(PipelineId(pipeline))
        if loaded is None:
            raise NotFound(f"no stage of pipeline {pipeline} is loaded here")
        spec = loaded.stage.spec
        if spec.epoch != epoch:
            raise Conflict(f"pipeline {pipeline} is at epoch {spec.epoch} here, the call is for epoch {epoch}")
        if spec.manifest != manifest:
            raise Conflict(f"pipeline {pipeline} is of artifact {spec.manifest[:12]} here, the call is for {manifest[:12]}")
        return loaded

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
        return [loaded.stage.spec for loaded in self._loaded.values()]

    def _save(self, spec: StageSpec) -> asyncio.Task[bool] | None:
        if self._prepacked is None:
            return None
        saving = self._prepacked.save(spec, self._blobs.folder, self._specs)
        return asyncio.create_task(saving, name=f"save prepacked weights of {spec.pipeline}")

    async def _drop(self, pipeline: PipelineId) -> None:
        if await self._take_down(pipeline):
            await in_thread(give_back)

    async def _take_down(self, pipeline: PipelineId) -> bool:
        if loaded := self._loaded.pop(pipeline, None):
            if loaded.saver:
                loaded.saver.cancel()
                await asyncio.gather(loaded.saver, return_exceptions=True)
            loaded.stage.unload()
            if loaded.head:
                await loaded.head.__aexit__(None, None, None)
        return loaded is not None

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(ORPHAN_SECONDS / 10)
            _free_orphans(self.loaded, time.monotonic())


def _free_orphans(held: Iterable[Loaded], now: float) -> None:
    """A function of its own: a task that sleeps with a stage in a variable would keep the whole of it."""
    for loaded in held:
        since = loaded.stage.orphaned_since
        if since is not None and now - since > ORPHAN_SECONDS:
            loaded.stage.free_all()
            loaded.stage.orphaned_since = None


def _status(loaded: Loaded) -> device_pb2.StageStatus:
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
    )


def _blobs_of(specs: Iterable[StageSpec]) -> set[Digest]:
    return {digest for spec in specs for digest in spec.blobs}
