"""A short run over all that is stored or sent; longer ones: python -m benchmarks.bit_flips."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bit_flips import FlipError, flips, kinds
from protos.errors import Corrupt
from tests.support.checkpoints import TinyGlm
from tests.support.ring import tiny_model

FLIPS = 250


@pytest.mark.parametrize(
    "name",
    [
        "blob, sent",
        "blob, kept",
        "manifest",
        "plan",
        "a member's certificate",
        "its authority",
        "its key",
        "the fleet's authority",
        "its key, too",
    ],
)
def test_a_changed_bit_is_refused_or_changes_nothing(tmp_path: Path, name: str) -> None:
    good, _ = tiny_model(tmp_path, TinyGlm())
    assert name in kinds(good)
    with kinds(good)[name](tmp_path) as (data, attempt):
        found = flips(data, FLIPS, 7, attempt)
    assert found.total() == FLIPS
    assert found["refused"] + found["made again"] + found["told"] > 0.9 * FLIPS
    assert found["told"] == 0 or name == "manifest"
    assert found["made again"] == 0 or name == "the fleet's authority"


def test_no_kind_is_left_out(tmp_path: Path) -> None:
    good, _ = tiny_model(tmp_path, TinyGlm())
    assert len(kinds(good)) == 9


def test_what_is_taken_for_good_is_a_fault() -> None:
    def takes(_changed: bytes) -> str:
        raise FlipError("taken")

    def refuses(_changed: bytes) -> str:
        raise Corrupt("no")

    with pytest.raises(FlipError, match=r"bit \d+: taken"):
        flips(b"abc", 5, 1, takes)
    assert flips(b"abc", 5, 1, refuses) == {"refused": 5}
