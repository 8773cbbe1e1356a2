"""A real board's CPU as the accelerator, metered by Linux RAPL where it is there."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import psutil

from device.hardware import AcceleratorInfo, Condition, EnergyReading, RunReport, RunThread, T, timed
from protos.physics.roofline import Figures
from protos.v1 import telemetry_pb2

POWERCAP = Path("/sys/class/powercap")
# Leave the system and the agent itself their share.
MEMORY_SHARE = 0.8
SENSORS_SECONDS = 5.0  # between two looks at temperature and battery: each opens dozens of files


class Rapl:
    """Energy counters of all CPU packages.

    Source: Linux kernel, Documentation/power/powercap/powercap.rst (energy_uj wraps at max_energy_range_uj).
    """

    def __init__(self, domains: list[tuple[Path, int]]) -> None:
        self._domains = [(path, range_uj, self._read(path)) for path, range_uj in domains]
        self._last = [first for _, _, first in self._domains]
        self._total_uj = 0
        self._reading = threading.Lock()  # runs are metered in their thread, samples on the event loop

    @classmethod
    def find(cls, root: Path = POWERCAP) -> Rapl | None:
        """None where there is no RAPL, or it may not be read (since Linux 5.10 only by root)."""
        domains = []
        try:
            for folder in sorted(root.glob("intel-rapl:*")):
                # A package; its parts are counted in it, and it is counted in "psys", where that is there.
                if folder.name.count(":") == 1 and (folder / "name").read_text().startswith("package"):
                    domains.append((folder / "energy_uj", int((folder / "max_energy_range_uj").read_text())))
            return cls(domains) if domains else None
        except (OSError, ValueError):
            return None

    def joules(self) -> float:
        """Since this object was made; monotonic. A counter that can no longer be read stands still."""
        with self._reading:
            for index, (path, range_uj, _) in enumerate(self._domains):
                with contextlib.suppress(OSError, ValueError):
                    now = self._read(path)
                    self._total_uj += (now - self._last[index]) % (range_uj + 1)
                    self._last[index] = now
            return self._total_uj / 1e6

    @staticmethod
    def _read(path: Path) -> int:
        return int(path.read_text())


class CpuHardware:
    """onnxruntime on this machine's cores. Joules are the package's while a run lasts: other programs' share is in them."""

    def __init__(self, memory_bytes: int | None = None, threads: int | None = None, powercap: Path = POWERCAP) -> None:
        self._threads = len(os.sched_getaffinity(0)) if threads is None else threads
        self.memory_bytes = int(psutil.virtual_memory().total * MEMORY_SHARE) if memory_bytes is None else memory_bytes
        self._meter = Rapl.find(powercap)
        self._thread = RunThread()
        self._busy_joules = 0.0
        self._started = time.monotonic()
        self._condition, self._sensed_at = Condition(), -math.inf
        source = telemetry_pb2.ENERGY_SOURCE_MEASURED if self._meter else telemetry_pb2.ENERGY_SOURCE_UNMETERED
        self.info = AcceleratorInfo(
            profile="cpu",
            description=f"{self._threads} CPU threads",
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
        before = self._meter.joules()
        try:
            wall_seconds = timed(compute)
        finally:
            joules = self._meter.joules() - before
            self._busy_joules += joules
        return RunReport(wall_seconds, None, joules)

    def energy(self) -> EnergyReading:
        elapsed = time.monotonic() - self._started
        if self._meter is None:
            return EnergyReading(None, None, elapsed)
        return EnergyReading(self._busy_joules, max(0.0, self._meter.joules() - self._busy_joules), elapsed)

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
