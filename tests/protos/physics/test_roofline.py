from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.physics.costs import StageCost
from protos.physics.roofline import Figures, Roofline, dynamic_joules, times
from protos.physics.timing import Decode, Prefill, StageRun
from protos.physics.work import OperatorLoad, Work

FIGURES = Figures(
    linear_bytes_per_second=10e9,
    linear_macs_per_second=1e12,
    attention_bytes_per_second=5e9,
    attention_macs_per_second=0.5e12,
    chip_bytes_per_second=100e9,
    launch_seconds=1e-3,
    operator_seconds=1e-5,
    idle_watts=2.0,
    cap_watts=10.0,
    joules_per_byte=50e-12,
    joules_per_chip_byte=10e-12,
    joules_per_mac=1e-12,
    joules_per_link_byte=8e-9,
)
# What the order of additions may change.
ROUNDING = 1 + 1e-9
COST = StageCost(10**8, 10**8, 10**8, 10**4, 3 * 10**7, 3 * 10**7, 10**4, 600, 10**5, 300, 2 * 10**5, 2)


def test_each_class_takes_what_it_is_bound_by() -> None:
    work = Work(
        linear=OperatorLoad(10**8, 10**6),  # bound by memory
        attention=OperatorLoad(10**3, 10**9),  # bound by arithmetic
        elementwise=OperatorLoad(10**8),
        head=OperatorLoad(10**7),
        embedding=OperatorLoad(10**6),
        operators=100,
    )
    spent = times(FIGURES, work, launches=2)
    assert (spent.linear, spent.attention, spent.elementwise) == pytest.approx((0.010, 0.002, 0.001))
    assert (spent.head, spent.embedding, spent.launch, spent.capped) == pytest.approx((0.001, 0.0001, 0.003, 0.0))
    assert spent.seconds == pytest.approx(0.0171)


def test_energy_counts_each_byte_where_it_moves() -> None:
    work = Work(linear=OperatorLoad(10**8, 10**6), elementwise=OperatorLoad(10**7), link_bytes=10**3)
    assert dynamic_joules(FIGURES, work) == pytest.approx(5e-3 + 1e-6 + 1e-4 + 8e-6)


def test_what_would_exceed_the_power_cap_takes_longer() -> None:
    thirsty = replace(FIGURES, joules_per_byte=5e-9)
    work = Work(linear=OperatorLoad(10**8))
    spent = times(thirsty, work)
    # 0.5 J of memory traffic within the 8 W that idling leaves.
    assert spent.seconds == pytest.approx(0.5 / 8.0)
    assert spent.capped == pytest.approx(spent.seconds - 0.011)


def test_unknown_figures_count_as_free() -> None:
    assert times(Figures(), Work(linear=OperatorLoad(10**9, 10**9), operators=5)).seconds == 0.0


def test_a_share_of_a_run_has_no_start_and_the_breakdown_adds_up() -> None:
    timing, whole = Roofline(FIGURES), StageRun(COST, Decode((7,)), head_rows=1, link_bytes=64)
    share, twice = replace(whole, launches=0), replace(whole, launches=2)
    seconds = [timing.estimate(run).seconds for run in (share, whole, twice)]
    assert seconds == pytest.approx([seconds[0], seconds[0] + 1e-3, seconds[0] + 2e-3], abs=1e-12)
    assert len({timing.estimate(run).joules for run in (share, whole, twice)}) == 1
    assert sum(timing.estimate(whole).breakdown.values()) == pytest.approx(seconds[1])
    assert timing.idle_watts == FIGURES.idle_watts


bandwidths = st.floats(1e8, 1e13)
rows = st.integers(1, 64)
lengths = st.integers(0, 4096)
figures = st.builds(
    Figures,
    bandwidths,
    bandwidths,
    bandwidths,
    bandwidths,
    bandwidths,
    st.floats(0, 1e-2),
    st.floats(0, 1e-4),
    st.floats(0.5, 10),
    st.floats(10.1, 400),
    st.floats(1e-12, 1e-9),
    st.floats(0, 1e-11),
    st.floats(0, 1e-11),
    st.floats(0, 1e-7),
)


def step_seconds(figures: Figures, batch: int, length: int, cost: StageCost = COST) -> float:
    return Roofline(figures).estimate(StageRun(cost, Decode((length,) * batch), head_rows=batch)).seconds


@given(figures, rows, lengths, st.integers(0, 10**9))
def test_more_bytes_never_take_less(figures: Figures, batch: int, length: int, more: int) -> None:
    less, larger = COST, replace(COST, read_bytes=COST.read_bytes + more)
    assert step_seconds(figures, batch, length, less) <= step_seconds(figures, batch, length, larger) * ROUNDING


@given(figures, rows, lengths, st.floats(1, 10))
def test_more_bandwidth_never_takes_longer(figures: Figures, batch: int, length: int, factor: float) -> None:
    faster = replace(
        figures,
        linear_bytes_per_second=figures.linear_bytes_per_second * factor,
        attention_bytes_per_second=figures.attention_bytes_per_second * factor,
        chip_bytes_per_second=figures.chip_bytes_per_second * factor,
    )
    assert step_seconds(faster, batch, length) <= step_seconds(figures, batch, length) * ROUNDING


@given(figures, rows, rows, lengths, st.integers(0, 512))
def test_a_larger_batch_takes_longer_but_never_longer_per_token(figures: Figures, batch: int, more: int, length: int, later: int) -> None:
    small, large = step_seconds(figures, batch, length), step_seconds(figures, batch + more, length)
    assert small <= large * ROUNDING
    assert large / (batch + more) <= small / batch * ROUNDING
    assert small <= step_seconds(figures, batch, length + later) * ROUNDING


@given(figures, st.integers(2, 512))
def test_a_prefill_is_no_slower_than_as_many_steps(figures: Figures, count: int) -> None:
    """It reads the weights once, they each time; it reads its own rows of the cache twice, they all before."""
    timing = Roofline(figures)
    whole = timing.estimate(StageRun(COST, Prefill(0, count))).seconds
    steps = sum(timing.estimate(StageRun(COST, Decode((position,)))).seconds for position in range(count))
    assert whole <= steps * ROUNDING


@given(figures, rows, lengths)
def test_power_stays_between_idle_and_the_cap(figures: Figures, batch: int, length: int) -> None:
    estimate = Roofline(figures).estimate(StageRun(COST, Decode((length,) * batch)))
    watts = figures.idle_watts + estimate.joules / estimate.seconds
    assert figures.idle_watts <= watts <= figures.cap_watts * ROUNDING
