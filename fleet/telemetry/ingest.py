"""Telemetry on its way into the store: gathered for a moment, written off the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from types import TracebackType
from typing import Self

from fleet.background import Background
from fleet.telemetry.records import Received, Registered, TelemetryRecords, may_pass
from protos.errors import FleetError
from protos.plausible import implausible
from protos.v1 import telemetry_pb2

BATCH_SECONDS = 1.0
# Five seconds of ten thousand devices, some 50 MB; what the store cannot take in that time is dropped, oldest first.
WAITING_SAMPLES = 50_000
THIN_SECONDS = 60.0

_log = logging.getLogger(__name__)


class Ingest:
    """An async context manager; what was added is written at the latest on exit."""

    def __init__(
        self,
        telemetry: TelemetryRecords,
        registered: Callable[[str], Registered],
        *,
        now: Callable[[], float] = time.time,
        batch_seconds: float = BATCH_SECONDS,
    ) -> None:
        """`registered`: who a device id is; `now` in unix seconds."""
        self._telemetry = telemetry
        self._registered = registered
        self._now = now
        self._batch_seconds = batch_seconds
        self._waiting: deque[Received] = deque(maxlen=WAITING_SAMPLES)
        self._unwritten: dict[tuple[str, str], Received] = {}  # by device and boot: the newest that the store did not take
        self._background = Background()
        self._refused: set[str] = set()
        self.latest: dict[str, telemetry_pb2.TelemetrySample] = {}  # by device

    async def __aenter__(self) -> Self:
        self._background.start(self._write_repeatedly(), "telemetry into the store")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._background.__aexit__(kind, error, trace)
        await self.flush()

    def add(self, sample: telemetry_pb2.TelemetrySample) -> None:
        """One that cannot be true is dropped: it would spoil the sums, or the whole batch."""
        if problem := implausible(sample):
            if sample.device_id not in self._refused:
                self._refused.add(sample.device_id)
                _log.warning("%s: its telemetry is not kept: %s", self._registered(sample.device_id).name, problem)
            return
        self.latest[sample.device_id] = sample
        self._waiting.append(Received(sample, self._now(), self._registered(sample.device_id)))

    async def flush(self) -> None:
        """Write what waits. Of what the store does not take, the newest of each boot is kept for the next time.

        It tells all that those before it told, and the device may be silent before the store is well again.
        """
        waiting = list(self._waiting)
        self._waiting.clear()
        try:
            await asyncio.to_thread(self._telemetry.ingest, [*self._unwritten.values(), *waiting])
            self._unwritten.clear()
        except FleetError as error:
            kept = _newest([*self._unwritten.values(), *waiting]) if may_pass(error) else {}
            self._unwritten = dict(islice(kept.items(), WAITING_SAMPLES))
            _log.warning("%d telemetry samples were not kept: %s", len(waiting), error.detail)

    async def _write_repeatedly(self) -> None:
        clock = asyncio.get_running_loop().time
        thinned_at = clock()
        while True:
            await asyncio.sleep(self._batch_seconds)
            await self.flush()
            if clock() - thinned_at > THIN_SECONDS:
                thinned_at = clock()
                try:
                    await asyncio.to_thread(self._telemetry.thin, self._now())
                except FleetError as error:
                    _log.warning("old telemetry was not thinned: %s", error.detail)


def _newest(samples: Iterable[Received]) -> dict[tuple[str, str], Received]:
    """By device and boot."""
    return {(one.sample.device_id, one.sample.boot_id): one for one in sorted(samples, key=lambda one: one.sample.index)}
