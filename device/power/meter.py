"""Energy meters, and how one is made of readings of power: each holds until the next."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

# A power monitor is asked so often. Runs of a decode step are shorter: what they are charged is right in the mean.
READ_SECONDS = 0.1
# A reading counts for no longer: of what comes after nothing is known.
MOST_HELD_SECONDS = 5.0


class EnergyMeter(Protocol):
    """Any thread may ask."""

    @property
    def what(self) -> str:
        """What it measures, in a few words."""
        ...

    def joules(self) -> float:
        """Since it was made; monotonic."""
        ...

    def blind_seconds(self) -> float:
        """Since it was made, of which nothing is known."""
        ...

    def close(self) -> None: ...


class PowerSensor(Protocol):
    """A reading may take milliseconds."""

    @property
    def what(self) -> str: ...

    def watts(self) -> float | None:
        """Now; None while nothing tells. Raises OSError, ValueError."""
        ...

    def close(self) -> None: ...


@dataclass
class Integral:
    """Joules of readings of power, `now` in seconds of one clock. A reading holds until the next, for at most MOST_HELD_SECONDS."""

    began: float
    joules_before: float = 0.0  # of readings before the last
    seen_before: float = 0.0  # seconds of them
    last: tuple[float, float] | None = None  # (watts, since when)

    def add(self, watts: float | None, now: float) -> None:
        """None: nothing is known from now on."""
        held = self._held(now)
        self.joules_before += self.last[0] * held if self.last else 0.0
        self.seen_before += held
        self.last = None if watts is None else (watts, now)

    def joules(self, now: float) -> float:
        return self.joules_before + (self.last[0] * self._held(now) if self.last else 0.0)

    def blind_seconds(self, now: float) -> float:
        return max(0.0, now - self.began - self.seen_before - self._held(now))

    def _held(self, now: float) -> float:
        return min(max(0.0, now - self.last[1]), MOST_HELD_SECONDS) if self.last else 0.0


class SampledMeter:
    """An energy meter of a power sensor, which a thread of its own reads."""

    def __init__(self, sensor: PowerSensor, *, period_seconds: float = READ_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._sensor = sensor
        self._period_seconds = period_seconds
        self._clock = clock
        self._integral = Integral(clock())
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.read()
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)
        self._thread.start()

    @property
    def what(self) -> str:
        return self._sensor.what

    def joules(self) -> float:
        with self._lock:
            return self._integral.joules(self._clock())

    def blind_seconds(self) -> float:
        with self._lock:
            return self._integral.blind_seconds(self._clock())

    def read(self) -> None:
        """Ask the sensor once."""
        watts: float | None = None
        with contextlib.suppress(OSError, ValueError):
            watts = self._sensor.watts()
        with self._lock:
            self._integral.add(watts, self._clock())

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._sensor.close()

    def _run(self) -> None:
        while not self._over.wait(self._period_seconds):
            self.read()
