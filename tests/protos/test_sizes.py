from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.sizes import bytes_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (102_348, "99.9 KiB"),
        (102_360, "100 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (150 << 20, "150 MiB"),
        (3 << 40, "3072 GiB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert bytes_text(count) == text


@given(st.integers(0, 1 << 50))
def test_what_is_said_is_near_what_is_meant(count: int) -> None:
    number, unit = bytes_text(count).split()
    assert abs(float(number) * 1024 ** ("B", "KiB", "MiB", "GiB").index(unit) - count) <= 0.05 * count
    assert re.fullmatch(r"\d{1,2}\.\d|\d+", number)
    assert float(number) < 1024 or unit == "GiB"
