from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.physics.thermal import Heat, Thermal, idle, run, sustained

BOARD = Thermal(5.0, 60.0, 25.0, 85.0, 75.0, 0.5)  # 300 s
COOL = Thermal(5.0, 60.0)


def stepwise(thermal: Thermal, heat: Heat, idle_watts: float, seconds: float, dynamic_joules: float, step: float) -> tuple[float, Heat]:
    """The same by small steps of Euler's: another way to the same answer."""
    done, taken, celsius, throttled = 0.0, 0.0, heat.celsius, heat.throttled
    while done < seconds:
        speed = thermal.throttled_speed if throttled else 1.0
        watts = idle_watts + speed * dynamic_joules / seconds
        celsius += step * (watts - (celsius - thermal.ambient_celsius) / thermal.kelvin_per_watt) / thermal.joules_per_kelvin
        throttled = celsius >= thermal.throttle_celsius or (throttled and celsius > thermal.resume_celsius)
        done, taken = done + speed * step, taken + step
    return taken, Heat(celsius, throttled)


def test_a_step_of_power_follows_the_closed_form_within_one_percent() -> None:
    """T(t) = ambient + P R (1 - exp(-t / R C)), in runs of many lengths one after the other."""
    heat, time = Heat(25.0), 0.0
    for length in (0.001, 0.5, 3.0, 30.0, 150.0, 300.0, 900.0):
        heat, time = run(COOL, heat, 2.0, length, 6.0 * length).heat, time + length
        assert heat.celsius - 25.0 == pytest.approx(8.0 * 5.0 * (1 - math.exp(-time / 300.0)), rel=0.01)
    assert idle(COOL, heat, 0.0, 300.0).celsius - 25.0 == pytest.approx((heat.celsius - 25.0) / math.e, rel=0.01)


def test_it_throttles_at_the_upper_threshold_and_resumes_at_the_lower() -> None:
    hot = idle(BOARD, Heat(84.0), 20.0, 30.0)
    assert hot.throttled
    between = idle(BOARD, hot, 0.0, 60.0)
    assert 75.0 < between.celsius < 85.0
    assert between.throttled
    assert not idle(BOARD, between, 0.0, 60.0).throttled
    assert not Heat(80.0).checked(BOARD).throttled


@pytest.mark.parametrize("seconds", [10.0, 100.0, 1000.0, 10_000.0])
def test_a_run_that_throttles_takes_as_long_as_small_steps_say(seconds: float) -> None:
    ran = run(BOARD, Heat(70.0), 2.0, seconds, 14.0 * seconds)
    taken, heat = stepwise(BOARD, Heat(70.0), 2.0, seconds, 14.0 * seconds, 0.005)
    assert ran.seconds == pytest.approx(taken, rel=0.002)
    assert ran.heat.celsius == pytest.approx(heat.celsius, abs=0.2)
    assert ran.heat.throttled == heat.throttled


def test_a_run_of_years_ends_at_once_at_the_sustained_speed() -> None:
    seconds = 3e8
    ran = run(BOARD, Heat(25.0), 2.0, seconds, 14.0 * seconds)
    steady = sustained(BOARD, 2.0, 14.0)
    assert BOARD.resume_celsius < steady.celsius < BOARD.throttle_celsius
    assert seconds / ran.seconds == pytest.approx(steady.speed, rel=1e-5)
    assert steady.watts == pytest.approx(2.0 + 14.0 * steady.speed)


def test_a_load_that_is_too_much_even_throttled_stays_throttled() -> None:
    steady = sustained(BOARD, 2.0, 40.0)
    assert (steady.speed, steady.watts) == (0.5, 22.0)
    assert steady.celsius == pytest.approx(25.0 + 22.0 * 5.0)
    assert run(BOARD, Heat(90.0, True), 2.0, 1000.0, 40_000.0).seconds == pytest.approx(2000.0)


def test_a_light_load_is_never_throttled() -> None:
    assert sustained(BOARD, 2.0, 3.0).speed == 1.0
    assert run(BOARD, Heat(25.0), 2.0, 1000.0, 3000.0).seconds == 1000.0


def test_a_board_that_nobody_described_stays_at_its_ambient() -> None:
    assert run(Thermal(), Heat(25.0), 2.0, 10.0, 1e6) == (run(Thermal(), Heat(60.0), 2.0, 10.0, 1e6))
    assert sustained(Thermal(), 2.0, 1e6).celsius == 25.0


@given(st.floats(-20, 120), st.booleans(), st.floats(0.1, 30), st.floats(0, 60), st.lists(st.floats(0.001, 500), min_size=1, max_size=6))
def test_cutting_a_run_changes_nothing(celsius: float, throttled: bool, idle_watts: float, watts: float, lengths: list[float]) -> None:
    """Integration is exact, so a thousand short runs are one long one."""
    start = Heat(celsius, throttled)
    whole = run(BOARD, start, idle_watts, sum(lengths), watts * sum(lengths))
    heat, taken = start, 0.0
    for length in lengths:
        part = run(BOARD, heat, idle_watts, length, watts * length)
        heat, taken = part.heat, taken + part.seconds
    assert taken == pytest.approx(whole.seconds, rel=1e-6)
    assert heat.celsius == pytest.approx(whole.heat.celsius, abs=1e-3)
    assert sum(lengths) * (1 - 1e-9) <= whole.seconds <= sum(lengths) / BOARD.throttled_speed * (1 + 1e-9)


def test_more_power_is_never_cooler() -> None:
    found = [sustained(BOARD, 2.0, watts) for watts in range(0, 60, 2)]
    assert all(cooler.speed >= hotter.speed for cooler, hotter in pairwise(found))
