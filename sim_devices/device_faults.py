"""What befalls a simulated device from inside its process: its board, its disk, its clock. The agent does not know of it."""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from device.blobs import Disk
from device.hardware import Condition
from protos.errors import InvalidInput

_HOLD_SECONDS = 0.25  # a chip held at a temperature is set to it again so often


class Settable(Protocol):
    """What of SimulatedHardware can be set from outside, and seen."""

    def condition(self) -> Condition: ...
    def set_slowdown(self, factor: float) -> None: ...
    def set_temperature(self, celsius: float) -> None: ...
    def set_battery(self, fraction: float) -> None: ...


class SimulatedDisk(Disk):
    """The file system's, until it is said to be full."""

    def __init__(self) -> None:
        self.full = False

    def free_bytes(self, folder: Path) -> int:
        return 0 if self.full else super().free_bytes(folder)

    def append(self, path: Path) -> io.FileIO:
        self._check()
        return _File(self, path)

    def try_to_write(self, folder: Path) -> None:
        self._check()
        super().try_to_write(folder)

    def _check(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _File(io.FileIO):
    def __init__(self, disk: SimulatedDisk, path: Path) -> None:
        super().__init__(path, "a")
        self._disk = disk

    def write(self, data: object, /) -> int:
        self._disk._check()
        return super().write(data)  # type: ignore[arg-type]


class SimulatedClock:
    """The device's wall clock: this machine's, and so many seconds wrong."""

    def __init__(self, skew_seconds: float = 0.0) -> None:
        self.skew_seconds = skew_seconds

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.skew_seconds)

    def log_time(self, seconds: float | None = None) -> time.struct_time:
        """For logging.Formatter.converter."""
        return time.localtime((time.time() if seconds is None else seconds) + self.skew_seconds)


class DeviceFaults:
    """Answers the control socket: "slow FACTOR", "temperature CELSIUS|-", "battery FRACTION", "disk full|ok", "clock SECONDS"."""

    def __init__(self, board: Settable, disk: SimulatedDisk, clock: SimulatedClock) -> None:
        self._board = board
        self._disk = disk
        self._clock = clock
        self._holding: asyncio.Task[None] | None = None

    async def handle(self, words: Sequence[str]) -> object:
        match words:
            case ["slow", factor]:
                self._board.set_slowdown(float(factor))
            case ["temperature", celsius]:
                self._hold(None if celsius == "-" else float(celsius))
            case ["battery", fraction]:
                if self._board.condition().battery_fraction is None:
                    raise InvalidInput("this board has no battery", advice="kill takes its power away")
                self._board.set_battery(float(fraction))
            case ["disk", state]:
                self._disk.full = state == "full"
            case ["clock", seconds]:
                self._clock.skew_seconds = float(seconds)
            case _:
                raise InvalidInput(f"not known here: {' '.join(words)[:80]}")
        logging.getLogger(__name__).info("a fault is set: %s", " ".join(words))
        return None

    def _hold(self, celsius: float | None) -> None:
        """At this temperature; None: it goes where its power takes it."""
        if self._holding:
            self._holding.cancel()
            self._holding = None
        if celsius is not None:
            self._board.set_temperature(celsius)
            self._holding = asyncio.create_task(_again_and_again(self._board, celsius), name="hold temperature")


async def _again_and_again(board: Settable, celsius: float) -> None:
    while True:
        await asyncio.sleep(_HOLD_SECONDS)
        board.set_temperature(celsius)
