"""The accelerator of a simulated device: computes for real on this machine, and reports time and joules of its profile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from device.hardware import AcceleratorInfo, EnergyReading, RunReport, RunThread, Work
from protos.v1 import telemetry_pb2
from sim_devices.profiles import Profile
from sim_devices.roofline import model

Pace = Literal["fast", "realtime"]

_log = logging.getLogger(__name__)


class SimulatedHardware:
    """Implements device.hardware.Hardware.

    Pace "fast" goes on as soon as this machine has computed. "realtime" holds the accelerator until the modelled time of each run has
    passed since its start; `overruns` counts the runs for which this machine alone took longer. Idle joules are the idle power times the
    wall time in which nothing ran. `clock` gives seconds, monotonic; `pause` waits that many seconds, and may return early on closing.
    """

    def __init__(
        self,
        profile: Profile,
        pace: Pace,
        *,
        memory_bytes: int | None = None,
        threads: int = 1,
        clock: Callable[[], float] = time.perf_counter,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        self._profile = profile
        self._pace = pace
        self._memory_bytes = memory_bytes or profile.memory_bytes
        self._clock = clock
        self._closing = threading.Event()
        self._pause = pause or self._closing.wait
        self._thread = RunThread()
        # What the compute thread changes while the event loop reads it.
        self._lock = threading.Lock()
        self._started = clock()
        self._running_since: float | None = None
        self._busy_wall_seconds = 0.0
        self._busy_modelled_seconds = 0.0
        self._busy_joules = 0.0
        self.runs = 0
        self.overruns = 0
        self._info = AcceleratorInfo(
            profile=profile.name,
            description=profile.description,
            simulated=True,
            pace=pace,
            threads=threads,
            memory_bandwidth_bytes_per_second=profile.memory_bandwidth_bytes_per_second,
            macs_per_second=profile.macs_per_second,
            launch_seconds=profile.launch_seconds,
            idle_watts=profile.idle_watts,
            joules_per_byte=profile.joules_per_byte,
            joules_per_mac=profile.joules_per_mac,
            energy_source=telemetry_pb2.ENERGY_SOURCE_MODELLED,
        )

    @property
    def info(self) -> AcceleratorInfo:
        return self._info

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    async def execute(self, work: Work, run: Callable[[], None]) -> RunReport:
        modelled = model(self._profile, read_bytes=work.weight_bytes + work.kv_bytes, macs=work.macs)
        wall_seconds = 0.0

        def paced() -> None:
            nonlocal wall_seconds
            start = self._clock()
            with self._lock:
                self._running_since = start
            done, left = False, 0.0
            try:
                run()
                done = True
                left = modelled.seconds - (self._clock() - start)
                # In the compute thread, so that the next run waits as it would for a busy accelerator, to tens of microseconds.
                if self._pace == "realtime" and left > 0:
                    self._pause(left)
            finally:
                with self._lock:
                    self._running_since = None
                    wall_seconds = self._clock() - start
                    self._busy_wall_seconds += wall_seconds
                    if done:
                        self._busy_modelled_seconds += modelled.seconds
                        self._busy_joules += modelled.joules
                        self.runs += 1
                        self.overruns += left < 0

        await self._thread.timed(paced)
        return RunReport(wall_seconds, modelled.seconds, modelled.joules)

    def energy(self) -> EnergyReading:
        with self._lock:
            until = self._clock() if self._running_since is None else self._running_since
            idle_seconds = max(0.0, until - self._started - self._busy_wall_seconds)
            idle_joules = self._profile.idle_watts * idle_seconds
            return EnergyReading(self._busy_joules, idle_joules, self._busy_modelled_seconds + idle_seconds)

    def temperature_celsius(self) -> float | None:
        return None

    def close(self) -> None:
        self._closing.set()
        self._thread.close()
        if self._pace == "realtime" and self.overruns:
            _log.warning("%d of %d runs took longer on this machine than the profile says", self.overruns, self.runs)
