from __future__ import annotations

import pytest

from benchmarks.hosts import SHAPES, Decode, against_prediction, hop_seconds
from sim_devices.links import LinkShape


def test_a_hop_takes_the_delay_and_the_time_of_its_frames() -> None:
    """2,304 bytes of a row and 55 around them are two segments, each with 66 bytes of headers."""
    assert hop_seconds(LinkShape(delay_seconds=0.005), 2304) == 0.005
    slow = LinkShape(delay_seconds=0.001, rate_bits_per_second=100e6)
    assert hop_seconds(slow, 2304) == pytest.approx(0.001 + (2304 + 55 + 2 * 66) * 8 / 100e6)


def test_each_round_is_set_against_its_own_time_without_delay() -> None:
    """A round that was slow as a whole is as near to what it allowed as one that was fast."""
    found = {name: [Decode(0.010, ()), Decode(0.020, ())] for name in SHAPES} | {"5 ms": [Decode(0.020, ()), Decode(0.040, ())]}
    ratios = against_prediction(found, 2304)
    assert (ratios["5 ms"].high, ratios["5 ms"].low) == (1.0, 0.75)
    assert "0 ms" not in ratios
