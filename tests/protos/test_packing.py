from __future__ import annotations

import tracemalloc
import zlib

import pytest

from protos import packing
from protos.errors import InvalidInput

LARGE = bytes(range(256)) * 8192


@pytest.mark.parametrize("data", [b"", b"graph", LARGE[: 1 << 20]])
def test_what_is_small_stays_as_it_is(data: bytes) -> None:
    assert packing.packed(data) == (data, b"")
    assert packing.unpacked(data, b"") == data


def test_what_is_large_comes_back() -> None:
    plain, compressed = packing.packed(LARGE)
    assert not plain
    assert len(compressed) < len(LARGE) // 10
    assert packing.unpacked(plain, compressed) == LARGE


@pytest.mark.parametrize(
    ("plain", "compressed", "says"),
    [
        (b"", b"no zlib", "damaged"),
        (b"", zlib.compress(LARGE)[:-1], "cut short"),
        (b"", zlib.compress(LARGE) + b"more", "cut short"),
        (b"graph", zlib.compress(b"graph"), "there twice"),
    ],
)
def test_what_is_refused(plain: bytes, compressed: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        packing.unpacked(plain, compressed)


def test_no_message_makes_more_of_itself_than_is_allowed() -> None:
    assert packing.unpacked(b"", zlib.compress(LARGE), len(LARGE)) == LARGE
    for most in (len(LARGE), 1, 0, -1):
        with pytest.raises(InvalidInput, match="too large"):
            packing.unpacked(b"", zlib.compress(LARGE + b"\0"), most)


def test_what_a_bomb_takes_is_what_is_allowed() -> None:
    """A thousandth of it is sent."""
    bomb = zlib.compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match="too large"):
            packing.unpacked(b"", bomb, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
