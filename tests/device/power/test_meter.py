"""Readings of power become joules: each holds until the next, and not for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.power.meter import MOST_HELD_SECONDS, Integral, SampledMeter


def test_each_reading_holds_until_the_next() -> None:
    integral = Integral(100.0)
    integral.add(10.0, 100.0)
    assert integral.joules(100.5) == pytest.approx(5.0)
    integral.add(20.0, 101.0)
    assert integral.joules(101.0) == pytest.approx(10.0)
    assert integral.joules(103.0) == pytest.approx(50.0)
    assert integral.blind_seconds(103.0) == 0.0


def test_of_what_nobody_read_nothing_is_known() -> None:
    integral = Integral(0.0)
    integral.add(None, 0.0)
    assert (integral.joules(3.0), integral.blind_seconds(3.0)) == (0.0, 3.0)
    integral.add(4.0, 3.0)
    late = 3.0 + MOST_HELD_SECONDS + 2.0
    assert integral.joules(late) == pytest.approx(4.0 * MOST_HELD_SECONDS)
    assert integral.blind_seconds(late) == pytest.approx(5.0)
    integral.add(1.0, late)
    assert integral.blind_seconds(late + 1.0) == pytest.approx(5.0)


@given(st.lists(st.tuples(st.none() | st.floats(0.0, 1e4), st.floats(0.0, 20.0)), max_size=30))
def test_joules_never_go_back_and_time_is_seen_or_blind(readings: list[tuple[float | None, float]]) -> None:
    integral, now, before = Integral(0.0), 0.0, 0.0
    for watts, seconds in readings:
        integral.add(watts, now)
        for part in (0.3, 1.0):
            joules = integral.joules(now + part * seconds)
            assert joules >= before - 1e-9 * before
            before = joules
        now += seconds
        assert 0.0 <= integral.blind_seconds(now) <= now


class Sensor:
    what = "a made-up rail"

    def __init__(self) -> None:
        self.readings: list[float | OSError | None] = []
        self.closed = False

    def watts(self) -> float | None:
        reading = self.readings.pop(0) if self.readings else None
        if isinstance(reading, OSError):
            raise reading
        return reading

    def close(self) -> None:
        self.closed = True


def test_a_sensor_that_fails_is_blind_and_not_zero() -> None:
    sensor, now = Sensor(), 0.0
    sensor.readings = [5.0, OSError("the bus is busy"), 5.0]
    meter = SampledMeter(sensor, period_seconds=1e6, clock=lambda: now)
    now = 2.0
    meter.read()
    now = 3.0
    assert (meter.joules(), meter.blind_seconds()) == (10.0, 1.0)
    meter.read()
    now = 4.0
    assert (meter.joules(), meter.blind_seconds()) == (15.0, 1.0)
    meter.close()
    assert sensor.closed
