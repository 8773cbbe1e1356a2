from __future__ import annotations

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


def test_no_message_makes_more_of_itself_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_MOST_BYTES", len(LARGE))
    assert packing.unpacked(b"", zlib.compress(LARGE)) == LARGE
    with pytest.raises(InvalidInput, match="too large"):
        packing.unpacked(b"", zlib.compress(LARGE + b"\0"))
