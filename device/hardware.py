"""What an agent runs on: the seam behind which a real board and a simulated device differ, and the only one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from protos.chip.core import Core
from protos.physics.roofline import Figures
from protos.physics.thermal import Thermal
from protos.physics.timing import StageRun
from protos.v1 import telemetry_pb2

T = TypeVar("T")


@dataclass(frozen=True)
class AcceleratorInfo:
    """For Describe: see device.proto, Accelerator."""

    profile: str
    description: str
    simulated: bool
    pace: str
    threads: int
    energy_source: telemetry_pb2.EnergySource
    figures: Figures = field(default_factory=Figures)
    thermal: Thermal | None = None
    hollow: bool = False  # it computes nothing: of use to the control plane only
    core: Core | None = None  # of a chip that runs compiled programs
    timed_by_programs: bool = False  # of `core`, which each stage brings with it


@dataclass(frozen=True)
class RunReport:
    """What one run took. `modelled_seconds` is None on a real device, `joules` None where nothing is metered."""

    wall_seconds: float
    modelled_seconds: float | None
    joules: float | None


@dataclass(frozen=True)
class EnergyReading:
    """Joules since the agent started; both None where nothing is metered.

    `elapsed_seconds` is the time they were spent in: wall on a real device, modelled busy plus wall idle on a simulated one, so that
    joules over seconds is a power the accelerator can draw even where the host runs faster than the model.
    """

    busy_joules: float | None
    idle_joules: float | None
    elapsed_seconds: float


@dataclass(frozen=True)
class Condition:
    """How the board is doing. None: nothing tells."""

    temperature_celsius: float | None = None
    throttled: bool = False
    battery_fraction: float | None = None


class Hardware(Protocol):
    """An accelerator and its power meter. One run at a time, in the order asked: the device's fair queue."""

    @property
    def info(self) -> AcceleratorInfo: ...

    @property
    def memory_bytes(self) -> int:
        """What stages and their KV may take together."""
        ...

    async def turn(self, function: Callable[[], T], *, brief: bool = False) -> T:
        """Call it in the computing thread, after all that was asked before; what it raises is raised.

        One that is said to be `brief` may be called at once, in the event loop, while nothing else was asked: to the thread and back takes
        as long as a few layers of a small model.
        """
        ...

    def run(self, run: StageRun, compute: Callable[[], None]) -> RunReport:
        """Call `compute`, which does what `run` describes, metered; within a turn. What it raises is raised."""
        ...

    def energy(self) -> EnergyReading: ...

    def condition(self) -> Condition: ...

    def close(self) -> None: ...


class RunThread:
    """The one thread that computes. A queue of one worker is first come, first served, which is fair while turns are short."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._lock = threading.Lock()
        self._asked = 0  # turns that wait or run in the thread, also those whose caller has left

    async def turn(self, function: Callable[[], T], *, brief: bool = False) -> T:
        """See Hardware.turn."""
        if brief and not self._asked:
            return function()
        with self._lock:
            self._asked += 1
        future = self._executor.submit(function)
        future.add_done_callback(self._turn_over)
        return await asyncio.wrap_future(future)

    def _turn_over(self, _future: object) -> None:
        with self._lock:
            self._asked -= 1

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


def timed(compute: Callable[[], None]) -> float:
    """Wall seconds that it takes."""
    start = time.perf_counter()
    compute()
    return time.perf_counter() - start
