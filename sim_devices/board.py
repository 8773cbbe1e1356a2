"""A simulated board without its host: what its runs take, and its energy, temperature and battery as time passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from device.hardware import Condition, EnergyReading
from protos.physics.thermal import Heat, Thermal, idle, run
from protos.physics.timing import StageRun, TimingModel


@dataclass(frozen=True)
class Modelled:
    """Of one run. Joules include the idle power of the time it takes."""

    seconds: float
    joules: float


@dataclass(frozen=True)
class _Running:
    modelled: Modelled
    heat: Heat  # at its end


class Board:
    """Lives in modelled time: a run takes its modelled seconds, whatever the host takes; between runs the caller's clock counts.

    Times given are of one monotonic clock, in seconds, and never go back. Not thread-safe. `battery_empty` is called once, by whichever
    call finds that nothing is left; the board goes on counting, what stops is the caller's affair.
    """

    def __init__(
        self,
        timing: TimingModel,
        thermal: Thermal,
        *,
        now: float,
        battery_joules: float | None = None,
        battery_empty: Callable[[], None] | None = None,
    ) -> None:
        self._timing = timing
        self._thermal = thermal
        self._heat = Heat(thermal.steady_celsius(timing.idle_watts)).checked(thermal)
        self._slowdown = 1.0
        self._running: _Running | None = None
        self._at = now  # up to here idle time is counted
        self._busy_joules = 0.0
        self._idle_joules = 0.0
        self._seconds = 0.0
        self._battery_joules = battery_joules
        self._left_joules = battery_joules
        self._battery_empty = battery_empty

    def begin(self, now: float, stage_run: StageRun) -> Modelled:
        """A run starts; what went before was idle. Says what it will take."""
        self._idle(now)
        modelled, heat = self._modelled(stage_run)
        self._running = _Running(modelled, heat)
        return modelled

    def end(self, now: float, done: bool = True) -> None:
        """It has ended. One that ended in an error (not `done`) counts for nothing."""
        running, self._running = self._running, None
        self._at = now
        if running is None or not done:
            return
        self._heat = running.heat
        self._busy_joules += running.modelled.joules
        self._seconds += running.modelled.seconds
        self._draw(running.modelled.joules)

    def energy(self, now: float) -> EnergyReading:
        """Up to `now`; while a run lasts, up to its start."""
        self._idle(now)
        return EnergyReading(self._busy_joules, self._idle_joules, self._seconds)

    def condition(self, now: float) -> Condition:
        """As `energy`."""
        self._idle(now)
        fraction = None if self._left_joules is None or not self._battery_joules else self._left_joules / self._battery_joules
        return Condition(self._heat.celsius, self._heat.throttled, fraction)

    def set_slowdown(self, factor: float) -> None:
        """Runs take so many times as long from now on, for the same dynamic energy; 1 is as described."""
        self._slowdown = factor

    def set_temperature(self, now: float, celsius: float) -> None:
        """From outside, at once; it then goes where its power takes it. A run that lasts keeps its pace."""
        self._idle(now)
        self._heat = Heat(celsius, self._heat.throttled).checked(self._thermal)
        if self._running:
            self._running = _Running(self._running.modelled, self._heat)

    def set_battery(self, now: float, fraction: float) -> None:
        """What is left of it, of 1. A board without a battery has none to set."""
        self._idle(now)
        if self._battery_joules is not None:
            self._left_joules = self._battery_joules * fraction
            self._draw(0.0)

    def _modelled(self, stage_run: StageRun) -> tuple[Modelled, Heat]:
        estimate, idle_watts = self._timing.estimate(stage_run), self._timing.idle_watts
        ran = run(self._thermal, self._heat, idle_watts, estimate.seconds * self._slowdown, estimate.joules)
        return Modelled(ran.seconds, idle_watts * ran.seconds + estimate.joules), ran.heat

    def _idle(self, now: float) -> None:
        if self._running:
            return
        seconds = max(0.0, now - self._at)
        self._at = max(self._at, now)
        watts = self._timing.idle_watts
        self._heat = idle(self._thermal, self._heat, watts, seconds)
        self._idle_joules += watts * seconds
        self._seconds += seconds
        self._draw(watts * seconds)

    def _draw(self, joules: float) -> None:
        if self._left_joules is None:
            return
        self._left_joules = max(0.0, self._left_joules - joules)
        if not self._left_joules and self._battery_empty:
            told, self._battery_empty = self._battery_empty, None
            told()
