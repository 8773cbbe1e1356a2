from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.recovery_context import Point, draw, rows

CURVES = {"a standby": [Point(64, 1.25, 1.5, 0, 12)], "no standby, fast": [Point(64, 2.0, 2.5, 6, 12), Point(128, 2.5, 3.0, 6, 12)]}


def test_a_row_for_each_context_of_each_way() -> None:
    assert rows(CURVES)[2:] == [
        "| a standby | 64 | 1.25 | 1.50 | 12 of 12 |",
        "| no standby, fast | 64 | 2.00 | 2.50 | 6 of 12 |",
        "| no standby, fast | 128 | 2.50 | 3.00 | 6 of 12 |",
    ]


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one.svg", "other.svg"):
        draw(CURVES, "tiny", tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    assert ElementTree.parse(tmp_path / "one.svg").getroot().tag.endswith("svg")
