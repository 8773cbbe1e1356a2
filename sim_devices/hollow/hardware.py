"""The accelerator of a hollow device: it says what its profile says, idles, and refuses to compute."""

from __future__ import annotations

import time
from collections.abc import Callable

from device.hardware import AcceleratorInfo, EnergyReading, RunReport, Work
from protos.errors import Conflict
from protos.v1 import telemetry_pb2
from sim_devices.profiles import Profile


def refusal() -> Conflict:
    return Conflict("this device is hollow: it computes nothing", advice="deploy on devices that are not hollow, see `glmfleet devices`")


class HollowHardware:
    """Implements device.hardware.Hardware. Its energy is the profile's idle power over time, modelled; it never runs."""

    def __init__(self, profile: Profile, *, memory_bytes: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds, monotonic."""
        self._idle_watts = profile.idle_watts
        self._memory_bytes = memory_bytes or profile.memory_bytes
        self._clock = clock
        self._started = clock()
        self._info = AcceleratorInfo(
            profile=profile.name,
            description=f"{profile.description} (hollow: computes nothing)",
            simulated=True,
            pace="",
            threads=1,
            memory_bandwidth_bytes_per_second=profile.memory_bandwidth_bytes_per_second,
            macs_per_second=profile.macs_per_second,
            launch_seconds=profile.launch_seconds,
            idle_watts=profile.idle_watts,
            joules_per_byte=profile.joules_per_byte,
            joules_per_mac=profile.joules_per_mac,
            energy_source=telemetry_pb2.ENERGY_SOURCE_MODELLED,
            hollow=True,
        )

    @property
    def info(self) -> AcceleratorInfo:
        return self._info

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    async def execute(self, work: Work, run: Callable[[], None]) -> RunReport:
        """Raises Conflict."""
        raise refusal()

    def energy(self) -> EnergyReading:
        seconds = self._clock() - self._started
        return EnergyReading(0.0, self._idle_watts * seconds, seconds)

    def temperature_celsius(self) -> float | None:
        return None

    def close(self) -> None:
        """Nothing was opened."""
