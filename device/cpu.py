"""A real board's CPU as the accelerator."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from functools import cache

import numpy as np
import psutil

from device.hardware import AcceleratorInfo, Condition, EnergyReading, RunReport, RunThread, T, timed
from device.power.meter import EnergyMeter
from protos.physics.roofline import Figures
from protos.v1 import telemetry_pb2

# Leave the system and the agent itself their share.
MEMORY_SHARE = 0.8
SENSORS_SECONDS = 5.0  # between two looks at temperature and battery: each opens dozens of files


class CpuHardware:
    """onnxruntime on this machine's cores. Joules are what its meter counts while a run lasts: other programs' share is in them."""

    def __init__(self, memory_bytes: int | None = None, threads: int | None = None, meter: EnergyMeter | None = None) -> None:
        """`meter` is closed with this."""
        self._threads = len(os.sched_getaffinity(0)) if threads is None else threads
        self.memory_bytes = int(psutil.virtual_memory().total * MEMORY_SHARE) if memory_bytes is None else memory_bytes
        self._meter = meter
        self._thread = RunThread()
        self._busy_joules = 0.0
        self._started = time.monotonic()
        self._condition, self._sensed_at = Condition(), -math.inf
        source = telemetry_pb2.ENERGY_SOURCE_MEASURED if self._meter else telemetry_pb2.ENERGY_SOURCE_UNMETERED
        self.info = AcceleratorInfo(
            profile="cpu",
            description=f"{self._threads} CPU threads" + (f"; joules of {meter.what}" if meter else ""),
            simulated=False,
            pace="",
            threads=self._threads,
            energy_source=source,
            figures=Figures(linear_bytes_per_second=copy_bandwidth()),
        )

    async def turn(self, function: Callable[[], T], *, brief: bool = False) -> T:
        return await self._thread.turn(function, brief=brief)

    def run(self, run: object, compute: Callable[[], None]) -> RunReport:
        if self._meter is None:
            return RunReport(timed(compute), None, None)
        before, blind = self._meter.joules(), self._meter.blind_seconds()
        try:
            wall_seconds = timed(compute)
        finally:
            joules, blind = self._meter.joules() - before, self._meter.blind_seconds() - blind
            self._busy_joules += joules
        return RunReport(wall_seconds, None, joules if blind <= 0.0 else None)

    def energy(self) -> EnergyReading:
        elapsed = time.monotonic() - self._started
        if self._meter is None:
            return EnergyReading(None, None, elapsed)
        joules, blind = self._meter.joules(), self._meter.blind_seconds()
        return EnergyReading(self._busy_joules, max(0.0, joules - self._busy_joules), max(0.0, elapsed - blind))

    def condition(self) -> Condition:
        if time.monotonic() - self._sensed_at >= SENSORS_SECONDS:
            self._sensed_at = time.monotonic()
            with contextlib.suppress(OSError):  # no descriptor is free: what was true a moment ago
                zones = [entry.current for entries in psutil.sensors_temperatures().values() for entry in entries]
                battery = psutil.sensors_battery()
                self._condition = Condition(max(zones, default=None), battery_fraction=battery.percent / 100 if battery else None)
        return self._condition

    def close(self) -> None:
        self._thread.close()
        if self._meter is not None:
            self._meter.close()


@cache
def copy_bandwidth(size_bytes: int = 64 << 20) -> float:
    """Bytes per second that one thread reads, from the best of eight copies: an estimate for the planner, not a benchmark. Measured once,
    in less than half a second."""
    source = np.ones(size_bytes, np.uint8)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return size_bytes / best
