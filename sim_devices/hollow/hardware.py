"""The accelerator of a hollow device: it says what its profile says, idles, and refuses to compute."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from device.hardware import AcceleratorInfo, Condition, EnergyReading, RunReport, T
from protos.errors import InvalidInput
from protos.physics.timing import StageRun
from sim_devices.board import Board
from sim_devices.hardware import accelerator_info
from sim_devices.profiles import Profile


def refusal() -> InvalidInput:
    return InvalidInput(
        "this device is hollow: it computes nothing", advice="deploy on devices that are not hollow, see `glmfleet devices`"
    )


class HollowHardware:
    """Implements device.hardware.Hardware. Its energy is the profile's idle power over time, modelled; it never runs."""

    def __init__(self, profile: Profile, *, memory_bytes: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds, monotonic."""
        self._memory_bytes = profile.memory_bytes if memory_bytes is None else memory_bytes
        self._clock = clock
        self._board = Board(profile.roofline, profile.thermal, now=clock(), battery_joules=profile.battery_joules)
        described = accelerator_info(profile, "", 1)
        self._info = replace(described, description=f"{profile.description} (hollow: computes nothing)", hollow=True)

    @property
    def info(self) -> AcceleratorInfo:
        return self._info

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    async def turn(self, function: Callable[[], T], *, brief: bool = False) -> T:
        """Raises Conflict."""
        raise refusal()

    def run(self, run: StageRun, compute: Callable[[], None]) -> RunReport:
        """Raises Conflict."""
        raise refusal()

    def energy(self) -> EnergyReading:
        return self._board.energy(self._clock())

    def condition(self) -> Condition:
        return self._board.condition(self._clock())

    def close(self) -> None:
        """Nothing was opened."""
