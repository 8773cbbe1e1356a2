"""One pipeline in force: its stream to the head, and what is observed and remembered of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fleet.background import Background, end
from fleet.deploying.actions import missing_line
from fleet.deploying.desired import Desired, PipelineSpec
from fleet.deploying.phase import (
    Failure,
    History,
    ObservedPipeline,
    ObservedStage,
    ObservedStandby,
    ObservedStream,
    PipelineState,
    pipeline_state,
)
from fleet.deploying.reconcile import held_by, holds, keeps_ready
from fleet.deploying.stream import PipelineStream
from fleet.deploying.views import StandbyView
from fleet.devices.registry import Registry
from fleet.planning.plan import Standby
from protos.ids import DeviceId
from protos.silence import ASKERS_BEAT_SECONDS, milliseconds
from protos.v1 import pipeline_pb2
from protos.versions import SPOKEN


class Pipeline:
    """Made and closed on the event loop; `history` is replaced by whoever carries out its actions."""

    def __init__(
        self, desired: Desired, spec: PipelineSpec, registry: Registry, background: Background, changed: Callable[[], None]
    ) -> None:
        """`changed` is told of every attaching of the stream and of every loss."""
        self.desired = desired
        self.spec = spec
        self.history = History()
        self.told: PipelineState | None = None  # as the log has it
        self.repair: asyncio.Task[None] | None = None
        self.look: asyncio.Task[None] | None = None
        self.preparing: dict[DeviceId, asyncio.Task[None]] = {}  # its standbys
        self.seeking = False  # a standby
        self.settles_until = 0.0  # loop time; until then it is likely to answer in a moment
        self.unprepared: dict[DeviceId, Failure] = {}  # standbys that could not be made ready
        self._requests = 0
        self._registry = registry
        attach = pipeline_pb2.Attach(
            protocol_version=SPOKEN.newest,
            oldest_protocol_version=SPOKEN.oldest,
            pipeline_id=spec.pipeline_id,
            manifest_digest=spec.plan.manifest_digest,
            epoch=spec.epoch,
            beat_milliseconds=milliseconds(ASKERS_BEAT_SECONDS),
        )
        head = spec.devices[0]
        self.stream = PipelineStream(attach, lambda: registry.client(head), changed, names=spec.device_names, slots=spec.slots)
        self._running = background.start(self.stream.run(), f"stream of {spec.pipeline_id}")

    def observe(self, *, replaced: bool = False) -> ObservedPipeline:
        stages = tuple(self._observe_stage(number) for number in range(len(self.spec.devices)))
        stream = self.stream
        standbys = tuple(self._observe_standby(standby) for standby in self.spec.plan.standbys)
        observed = ObservedStream(stream.attached, stream.broken_at, stream.why, idle=not stream.open_sequences)
        return ObservedPipeline(stages, observed, replaced, standbys, self.seeking)

    @property
    def state(self) -> PipelineState:
        return pipeline_state(self.observe(), self.history)

    @property
    def leaving(self) -> bool:
        """A device of it is to be switched off: others are asked, where there are some."""
        return bool(self.observe().draining)

    @property
    def predicted_wait(self) -> float:
        """Its outstanding work: requests that it has, and the one to come, by the tokens a second that one stream of it is predicted."""
        return (self._requests + 1) / max(self.spec.plan.decode_tokens_per_second, 1e-9)

    def standby_views(self) -> tuple[StandbyView, ...]:
        return tuple(self._standby_view(standby) for standby in self.spec.plan.standbys)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """A request counts as its own from the moment it was chosen, not only when the head has it."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def close(self) -> None:
        """Requests that are open fail; devices keep their stages."""
        for task in (self.repair, self.look, *self.preparing.values(), self._running):
            if task is not None:
                await end(task)
        self.stream.close()

    def _observe_stage(self, number: int) -> ObservedStage:
        name, device = self.spec.plan.stages[number].device_name, self.spec.devices[number]
        record, removed = self._registry.record(device), self._registry.removed(device)
        if record is None or not record.connected:
            return ObservedStage(name, connected=False, why_away=missing_line(name, record, removed=removed), removed=removed)
        held = held_by(record.description) if record.description is not None else ()
        return ObservedStage(
            name,
            connected=True,
            addresses=frozenset(record.addresses),
            holds=holds(held, self.spec, number),
            draining=record.draining,
        )

    def _standby_view(self, standby: Standby) -> StandbyView:
        device, record = DeviceId(standby.device_id), self._registry.record(DeviceId(standby.device_id))
        stages = tuple(one.stage for one in standby.covers)
        if record is None or not record.connected:
            why = missing_line(standby.device_name, record, removed=self._registry.removed(device))
            return StandbyView(device, standby.device_name, stages, "away", why)
        if self._observe_standby(standby).ready == set(stages):
            return StandbyView(device, standby.device_name, stages, "ready")
        failure = self.unprepared.get(device)
        return StandbyView(device, standby.device_name, stages, "preparing", failure.detail if failure else "it is being sent its stages")

    def _observe_standby(self, standby: Standby) -> ObservedStandby:
        device = DeviceId(standby.device_id)
        record = self._registry.record(device)
        if record is None or not record.connected or record.description is None or record.draining:
            return ObservedStandby(device)
        held, covers = held_by(record.description), {one.stage for one in standby.covers}
        ready = frozenset(stage for stage in covers if keeps_ready(held, self.spec, stage))
        return ObservedStandby(device, ready, frozenset() if device in self.unprepared else frozenset(covers - ready))
