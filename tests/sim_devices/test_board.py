from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.physics.costs import StageCost
from protos.physics.roofline import Figures, Roofline
from protos.physics.thermal import Thermal
from protos.physics.timing import Decode, StageRun
from sim_devices.board import Board

TIMING = Roofline(Figures(linear_bytes_per_second=1e9, idle_watts=2.0, cap_watts=20.0, joules_per_byte=5e-9))


def streaming(count: int) -> StageRun:
    """So many bytes: a second and 5 J above idle for 10^9."""
    return StageRun(StageCost(read_bytes=count), Decode((0,)))


SECOND = streaming(10**9)
HOT = Thermal(5.0, 60.0, 25.0, 50.0, 45.0, 0.5)
COOL = Thermal(5.0, 60.0)


def test_a_run_takes_its_modelled_time_whatever_the_host_takes() -> None:
    board = Board(TIMING, COOL, now=100.0)
    modelled = board.begin(103.0, SECOND)
    assert (modelled.seconds, modelled.joules) == pytest.approx((1.0, 7.0))
    board.end(150.0)
    reading = board.energy(152.0)
    assert (reading.busy_joules, reading.idle_joules, reading.elapsed_seconds) == pytest.approx((7.0, 2.0 * 5, 6.0))


def test_idle_stands_still_while_a_run_lasts_and_an_error_counts_for_nothing() -> None:
    board = Board(TIMING, COOL, now=0.0)
    before = board.condition(1.0)
    board.begin(1.0, SECOND)
    assert board.energy(9.0).idle_joules == pytest.approx(2.0)
    assert board.condition(9.0) == before
    board.end(9.0, done=False)
    assert board.energy(9.0).busy_joules == 0.0


def test_slowdown_stretches_a_run_for_the_same_dynamic_energy() -> None:
    board = Board(TIMING, COOL, now=0.0)
    board.set_slowdown(3.0)
    modelled = board.begin(0.0, SECOND)
    assert (modelled.seconds, modelled.joules) == pytest.approx((3.0, 3 * 2.0 + 5.0))


def test_it_warms_up_throttles_and_cools_down_with_hysteresis() -> None:
    board = Board(TIMING, HOT, now=0.0)
    assert board.condition(0.0).temperature_celsius == pytest.approx(35.0)
    now = 0.0
    lengths = []
    for _ in range(400):
        modelled = board.begin(now, SECOND)
        now += modelled.seconds
        board.end(now)
        lengths.append(modelled.seconds)
    assert lengths[0] == pytest.approx(1.0)
    assert max(lengths) == pytest.approx(2.0)
    hot = board.condition(now).temperature_celsius
    assert hot is not None
    assert 45.0 <= hot <= 50.0
    assert not board.condition(now + 3600.0).throttled


def test_overheating_from_outside_slows_at_once() -> None:
    board = Board(TIMING, HOT, now=0.0)
    board.set_temperature(0.0, 80.0)
    assert board.condition(0.0).throttled
    assert board.begin(0.0, SECOND).seconds == pytest.approx(2.0)


def test_a_battery_runs_down_and_says_once_that_it_is_empty() -> None:
    said: list[str] = []
    board = Board(TIMING, COOL, now=0.0, battery_joules=100.0, battery_empty=lambda: said.append("empty"))
    assert board.condition(10.0).battery_fraction == pytest.approx(0.8)
    board.set_battery(10.0, 0.1)
    board.begin(10.0, SECOND)
    board.end(11.0)
    assert board.condition(11.0).battery_fraction == pytest.approx(0.03)
    assert not said
    board.energy(20.0)
    board.energy(30.0)
    assert said == ["empty"]
    assert board.condition(30.0).battery_fraction == 0.0


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 10**10), st.floats(0, 100), st.booleans()), max_size=30))
def test_energy_is_conserved(steps: list[tuple[float, int, float, bool]]) -> None:
    """Every joule of the counter is a run's or the idle power's, and no board draws more than its cap."""
    board, now, runs, idle_seconds = Board(TIMING, HOT, now=0.0), 0.0, 0.0, 0.0
    for pause, size, host_seconds, done in steps:
        now, idle_seconds = now + pause, idle_seconds + pause
        modelled = board.begin(now, streaming(size))
        now += host_seconds
        board.end(now, done)
        runs += modelled.joules * done
    reading = board.energy(now)
    assert reading.busy_joules == pytest.approx(runs)
    assert reading.idle_joules == pytest.approx(TIMING.idle_watts * idle_seconds)
    assert runs + (reading.idle_joules or 0.0) <= TIMING.figures.cap_watts * reading.elapsed_seconds * (1 + 1e-9)
