from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_devices import quantities


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (quantities.seconds, "250us", 250e-6),
        (quantities.seconds, "20ms", 0.02),
        (quantities.seconds, "1.5s", 1.5),
        (quantities.seconds, "10m", 600),
        (quantities.seconds, "2h", 7200),
        (quantities.seconds, "1d", 86400),
        (quantities.bits_per_second, "9600bit", 9600),
        (quantities.bits_per_second, "500kbit", 500_000),
        (quantities.bits_per_second, "10mbit", 10_000_000),
        (quantities.bits_per_second, "2.5gbit", 2_500_000_000),
        (quantities.fraction, "0.1%", 0.001),
        (quantities.fraction, "0%", 0),
        (quantities.size_bytes, "4GiB", 4 << 30),
        (quantities.size_bytes, "512MB", 512_000_000),
        (quantities.size_bytes, "1000000", 1_000_000),
    ],
)
def test_what_people_write(read: Callable[[str], float], text: str, value: float) -> None:
    assert read(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("read", "texts"),
    [
        (quantities.seconds, ["", "20", "ms", "-1s", "1 week", "1e3s", "nan s", "9" * 30 + "s"]),
        (quantities.bits_per_second, ["10", "10mbps", "10Mbit", "0mbit", "inf", "1tbit"]),
        (quantities.fraction, ["1", "100%", "-1%", "0.01"]),
        (quantities.size_bytes, ["0", "0GiB", "0.0001kB", "1.5", "1.5B", "4 gigs", "-1GiB", "4Gi", "0.1"]),
    ],
)
def test_what_they_should_not(read: Callable[[str], float], texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(ValueError, match=r"\w"):
            read(text)


@given(st.integers(0, 10**12))
def test_a_duration_is_read_back_to_the_microsecond(micros: int) -> None:
    assert round(quantities.seconds(quantities.duration_text(micros / 1e6)) * 1e6) == micros


def test_texts() -> None:
    durations = [quantities.duration_text(value) for value in (0, 0.00025, 0.02, 1.5, 90, 7200)]
    assert durations == ["0s", "250us", "20ms", "1500ms", "90s", "2h"]
    assert [quantities.rate_text(value) for value in (9600, 5e5, 1e7, 2.5e9)] == ["9.6kbit", "500kbit", "10mbit", "2.5gbit"]
