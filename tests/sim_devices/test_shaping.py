"""The schedule alone: time is an argument, so rate and delay are exact."""

from __future__ import annotations

import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_devices.links import LinkShape
from sim_devices.shaping import RETRANSMIT_SECONDS, SEGMENT_BYTES, Line


def line(shape: LinkShape, round_trip_seconds: float | None = None, seed: int = 1) -> Line:
    return Line(shape, 2 * shape.delay_seconds if round_trip_seconds is None else round_trip_seconds, random.Random(seed))


def test_a_wire_takes_no_time() -> None:
    wire = line(LinkShape())
    assert wire.plain
    assert wire.send(3.0, 65536, 0) == 3.0


@given(st.floats(1e4, 1e10), st.lists(st.integers(1, 65536), min_size=2, max_size=50))
def test_a_busy_line_passes_exactly_its_rate(rate: float, sizes: list[int]) -> None:
    shaped = line(LinkShape(delay_seconds=0.02, rate_bits_per_second=rate))
    arrivals = [shaped.send(1.0, size, 0) for size in sizes]
    assert arrivals[-1] - 1.02 == pytest.approx(sum(sizes) * 8 / rate)
    assert all(before < after for before, after in pairwise(arrivals))


def test_an_idle_line_saves_nothing_up() -> None:
    shaped = line(LinkShape(rate_bits_per_second=8e6))
    assert shaped.send(0.0, 1000, 0) == pytest.approx(0.001)
    assert shaped.queue_seconds(0.0) == pytest.approx(0.001)
    assert shaped.queue_seconds(5.0) == 0
    assert shaped.send(5.0, 1000, 0) == pytest.approx(5.001)


def test_what_shares_a_line_shares_its_rate() -> None:
    shaped = line(LinkShape(rate_bits_per_second=8e6))
    assert [shaped.send(0.0, 1000, 0) for _ in range(3)] == pytest.approx([0.001, 0.002, 0.003])


def test_jitter_is_even_around_the_delay() -> None:
    shaped = line(LinkShape(delay_seconds=0.02, jitter_seconds=0.005))
    delays = [shaped.send(float(second), 100, 0) - second for second in range(4000)]
    assert 0.015 <= min(delays) < 0.0151
    assert 0.0249 < max(delays) <= 0.025
    assert statistics.mean(delays) == pytest.approx(0.02, rel=0.02)


def test_loss_costs_a_round_trip_in_a_stream_and_a_timeout_at_its_end() -> None:
    shape = LinkShape(delay_seconds=0.02, loss=0.1)
    for behind, cost in ((10 * SEGMENT_BYTES, 0.04), (0, 0.04 + RETRANSMIT_SECONDS)):
        shaped = line(shape)
        delays = [shaped.send(float(second), 100, behind) - second - 0.02 for second in range(4000)]
        late = [delay for delay in delays if delay > 1e-9]
        # Three standard deviations of a binomial.
        assert abs(len(late) / 4000 - 0.1) < 3 * (0.1 * 0.9 / 4000) ** 0.5
        assert min(late) == pytest.approx(cost)
        assert max(late) >= cost + 0.04 + RETRANSMIT_SECONDS - 1e-9  # lost again


@pytest.mark.parametrize(("segments", "tries"), [(1, [1, 2, 3, 4, 5, 6, 7, 8, 10]), (4, [1, 2, 4, 8, 16])])
def test_what_a_thin_stream_loses_again_comes_no_later(segments: int, tries: list[int]) -> None:
    """In timeouts, of what was lost once, twice, three times …: doubled from the first, or from the eighth on."""
    shaped = line(LinkShape(loss=0.6))
    timeouts = {round(shaped._repeating(segments * SEGMENT_BYTES, 0) / RETRANSMIT_SECONDS) for _ in range(4000)}
    assert sorted(timeouts)[1 : len(tries) + 1] == tries


def test_loss_bounds_the_rate_as_mathis_and_others_found() -> None:
    shaped = line(LinkShape(delay_seconds=0.02, loss=0.01))
    sent = 0
    while shaped.queue_seconds(0.0) < 10:
        shaped.send(0.0, SEGMENT_BYTES, 10 * SEGMENT_BYTES)
        sent += SEGMENT_BYTES
    assert sent / 10 == pytest.approx(SEGMENT_BYTES / 0.04 * (1.5 / 0.01) ** 0.5, rel=0.02)
    # A few segments after a pause fit the window: they wait for nothing.
    fresh = line(LinkShape(delay_seconds=0.02, loss=0.01))
    for _ in range(5):
        fresh.send(100.0, SEGMENT_BYTES, 0)
    assert fresh.queue_seconds(100.0) == 0


def test_pieces_are_what_passes_in_a_millisecond() -> None:
    assert [line(LinkShape(rate_bits_per_second=rate)).piece_bytes for rate in (1e5, 1e8, 1e10)] == [SEGMENT_BYTES, 12500, 65536]


def test_chance_is_the_seeds() -> None:
    shape = LinkShape(delay_seconds=0.02, jitter_seconds=0.01, loss=0.2)

    def arrivals(seed: int) -> list[float]:
        shaped = line(shape, seed=seed)
        return [shaped.send(float(second), 3000, 0) for second in range(50)]

    assert arrivals(3) == arrivals(3) != arrivals(4)
