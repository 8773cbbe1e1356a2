"""The accelerator of a simulated device: computes for real on this machine, and reports time and joules of its profile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from device.hardware import AcceleratorInfo, Condition, EnergyReading, RunReport, RunThread, T
from protos.chip.core import Core
from protos.physics.by_programs import ByPrograms
from protos.physics.timing import StageRun, TimingModel
from protos.v1 import telemetry_pb2
from sim_devices.board import Board
from sim_devices.profiles import Profile

Pace = Literal["fast", "realtime"]

_log = logging.getLogger(__name__)


class SimulatedHardware:
    """Implements device.hardware.Hardware.

    Pace "fast" goes on as soon as this machine has computed. "realtime" holds the accelerator until the modelled time of each run has
    passed since its start; `overruns` counts the runs for which this machine alone took longer. Idle joules are the idle power times the
    time by `clock` in which nothing ran. `core` is that of the profile's chip, where it has one, and `timing` is asked in place of the
    profile's own model. `clock` gives seconds, monotonic; `pause`
    waits that many seconds, and may return early on closing. `battery_empty` is called once when a battery is used up, from any thread.
    """

    def __init__(
        self,
        profile: Profile,
        pace: Pace,
        *,
        core: Core | None = None,
        timing: TimingModel | None = None,
        memory_bytes: int | None = None,
        threads: int = 1,
        clock: Callable[[], float] = time.perf_counter,
        pause: Callable[[float], object] | None = None,
        battery_empty: Callable[[], None] | None = None,
    ) -> None:
        self._pace = pace
        self._memory_bytes = profile.memory_bytes if memory_bytes is None else memory_bytes
        self._clock = clock
        self._closing = threading.Event()
        self._pause = pause or self._closing.wait
        self._thread = RunThread()
        # What the compute thread changes while the event loop reads it.
        self._lock = threading.RLock()
        model = timing or timing_of(profile, core)
        self._board = Board(model, profile.thermal, now=clock(), battery_joules=profile.battery_joules, battery_empty=battery_empty)
        self.runs = 0
        self.overruns = 0
        self._info = accelerator_info(profile, pace, threads, core)

    @property
    def info(self) -> AcceleratorInfo:
        return self._info

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    async def turn(self, function: Callable[[], T], *, brief: bool = False) -> T:
        # One that keeps its pace sleeps, which the event loop must not.
        return await self._thread.turn(function, brief=brief and self._pace == "fast")

    def run(self, run: StageRun, compute: Callable[[], None]) -> RunReport:
        start = self._clock()
        with self._lock:
            modelled = self._board.begin(start, run)
        done, left = False, 0.0
        try:
            compute()
            done = True
            left = modelled.seconds - (self._clock() - start)
            # In the compute thread, so that the next run waits as it would for a busy accelerator, to tens of microseconds.
            if self._pace == "realtime" and left > 0:
                self._pause(left)
        finally:
            with self._lock:
                now = self._clock()
                self._board.end(now, done)
                self.runs += done
                self.overruns += left < 0
        return RunReport(now - start, modelled.seconds, modelled.joules)

    def energy(self) -> EnergyReading:
        with self._lock:
            return self._board.energy(self._clock())

    def condition(self) -> Condition:
        with self._lock:
            return self._board.condition(self._clock())

    def set_slowdown(self, factor: float) -> None:
        """See Board; so do the others."""
        with self._lock:
            self._board.set_slowdown(factor)

    def set_temperature(self, celsius: float) -> None:
        with self._lock:
            self._board.set_temperature(self._clock(), celsius)

    def set_battery(self, fraction: float) -> None:
        with self._lock:
            self._board.set_battery(self._clock(), fraction)

    def close(self) -> None:
        self._closing.set()
        self._thread.close()
        if self._pace == "realtime" and self.overruns:
            _log.warning("%d of %d runs took longer on this machine than the profile says", self.overruns, self.runs)


def timing_of(profile: Profile, core: Core | None) -> TimingModel:
    """What the device asks for the time of its runs; the board's idle power counts, whatever the chip alone takes."""
    if core is None or profile.timed_by == "roofline":
        return profile.roofline
    return ByPrograms(profile.idle_watts, core.launch_seconds, profile.effective.joules_per_link_byte)


def accelerator_info(profile: Profile, pace: str, threads: int, core: Core | None = None) -> AcceleratorInfo:
    """What a simulated device says of itself."""
    return AcceleratorInfo(
        profile=profile.name,
        description=profile.description,
        simulated=True,
        pace=pace,
        threads=threads,
        energy_source=telemetry_pb2.ENERGY_SOURCE_MODELLED,
        figures=profile.effective,
        thermal=profile.thermal,
        core=core,
        timed_by_programs=core is not None and profile.timed_by == "compiled",
    )
