"""How warm a board gets, and how much slower it then runs: one thermal resistance, one heat capacity, throttling with hysteresis."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Thermal:
    """dT/dt = (P R - (T - ambient)) / (R C), so towards a constant power T approaches ambient + P R with the time constant R C.

    Above `throttle_celsius` everything runs at `throttled_speed` of its speed until the board is down to `resume_celsius`. Work slowed so
    takes as much dynamic energy as before over a longer time: less power. `kelvin_per_watt` 0 is a board nobody described: it never warms.

    The lumped-capacitance model of Incropera and DeWitt, Fundamentals of Heat and Mass Transfer, chapter 5, whose exact solution between
    changes of power is `after`.
    """

    kelvin_per_watt: float = 0.0
    joules_per_kelvin: float = 0.0
    ambient_celsius: float = 25.0
    throttle_celsius: float = math.inf
    resume_celsius: float = math.inf
    throttled_speed: float = 1.0

    @property
    def seconds(self) -> float:
        """The time constant R C, in seconds."""
        return self.kelvin_per_watt * self.joules_per_kelvin

    def steady_celsius(self, watts: float) -> float:
        """Where a constant power ends up, in degrees Celsius."""
        return self.ambient_celsius + watts * self.kelvin_per_watt

    def after(self, celsius: float, watts: float, seconds: float) -> float:
        """Degrees Celsius after `seconds` at a constant power, exactly."""
        steady = self.steady_celsius(watts)
        return steady + (celsius - steady) * math.exp(-seconds / self.seconds) if self.seconds else steady

    def seconds_until(self, target: float, celsius: float, watts: float) -> float:
        """Seconds until `target` is reached from `celsius` at a constant power; infinite when it never is."""
        steady = self.steady_celsius(watts)
        if (celsius - target) * (target - steady) <= 0:
            return math.inf  # the target does not lie between
        return self.seconds * math.log((celsius - steady) / (target - steady))


@dataclass(frozen=True)
class Heat:
    """A board's state."""

    celsius: float
    throttled: bool = False

    def checked(self, thermal: Thermal) -> Heat:
        """After the temperature has changed: throttled above one threshold, free again below the other, as before in between."""
        if self.celsius >= thermal.throttle_celsius:
            return Heat(self.celsius, True)
        return Heat(self.celsius, self.throttled and self.celsius > thermal.resume_celsius)


@dataclass(frozen=True)
class Ran:
    """A run as the board's temperature let it be: the seconds it took, and the board's state at its end."""

    seconds: float
    heat: Heat


def idle(thermal: Thermal, heat: Heat, watts: float, seconds: float) -> Heat:
    """The board's state after `seconds` at `watts`, in which nothing ran."""
    return Heat(thermal.after(heat.celsius, watts, seconds), heat.throttled).checked(thermal)


def run(thermal: Thermal, heat: Heat, idle_watts: float, seconds: float, dynamic_joules: float) -> Ran:
    """Work that takes `seconds` at full speed and `dynamic_joules` at any, on a board that is this warm.

    Exact however long it takes: the time is cut where a threshold is crossed, and once the board swings between the two, whole swings are
    counted at once.
    """
    if not seconds:
        return Ran(0.0, heat)
    watts = dynamic_joules / seconds
    left, taken, heat = seconds, 0.0, heat.checked(thermal)
    swing = _Swing.of(thermal, idle_watts, watts)
    while True:
        if swing and heat == Heat(thermal.throttle_celsius, True):
            times = left // swing.work_seconds
            left, taken = left - times * swing.work_seconds, taken + times * swing.seconds
        speed = thermal.throttled_speed if heat.throttled else 1.0
        target = thermal.resume_celsius if heat.throttled else thermal.throttle_celsius
        power = idle_watts + watts * speed
        crossing = thermal.seconds_until(target, heat.celsius, power)
        if crossing >= left / speed:
            return Ran(taken + left / speed, Heat(thermal.after(heat.celsius, power, left / speed), heat.throttled).checked(thermal))
        left, taken = left - crossing * speed, taken + crossing
        heat = Heat(target, not heat.throttled)


@dataclass(frozen=True)
class Sustained:
    """What a board settles at under a load that never ends: `speed` 1 is unthrottled; between the thresholds it swings."""

    celsius: float
    watts: float
    speed: float


def sustained(thermal: Thermal, idle_watts: float, dynamic_watts: float) -> Sustained:
    """Under work that draws `dynamic_watts` on top of the idle power when it runs at full speed.

    >>> board = Thermal(kelvin_per_watt=5, joules_per_kelvin=40, ambient_celsius=25, throttle_celsius=80, resume_celsius=75)
    >>> sustained(board, idle_watts=2, dynamic_watts=6)
    Sustained(celsius=65, watts=8, speed=1.0)
    """
    full = idle_watts + dynamic_watts
    if thermal.steady_celsius(full) <= thermal.throttle_celsius:  # which it only approaches
        return Sustained(thermal.steady_celsius(full), full, 1.0)
    if swing := _Swing.of(thermal, idle_watts, dynamic_watts):
        speed = swing.work_seconds / swing.seconds
        watts = idle_watts + dynamic_watts * speed
        # Over a whole swing no heat is stored, so the mean temperature is that of the mean power.
        return Sustained(thermal.steady_celsius(watts), watts, speed)
    watts = idle_watts + dynamic_watts * thermal.throttled_speed
    return Sustained(thermal.steady_celsius(watts), watts, thermal.throttled_speed)


@dataclass(frozen=True)
class _Swing:
    """From the upper threshold down to the lower and up again."""

    seconds: float
    work_seconds: float  # what it gets done, in seconds of full speed

    @staticmethod
    def of(thermal: Thermal, idle_watts: float, watts: float) -> _Swing | None:
        """None where the load does not swing: it stays cool, or hot."""
        if thermal.resume_celsius >= thermal.throttle_celsius:
            return None
        upper, lower, slow = thermal.throttle_celsius, thermal.resume_celsius, thermal.throttled_speed
        down = thermal.seconds_until(lower, upper, idle_watts + watts * slow)
        up = thermal.seconds_until(upper, lower, idle_watts + watts)
        return None if math.isinf(down + up) else _Swing(down + up, down * slow + up)
