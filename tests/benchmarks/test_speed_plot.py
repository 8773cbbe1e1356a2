from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.speed_plot import curves, draw
from protos.errors import NotFound

ENTRY = {
    "model": "tiny",
    "date": "2026-11-28",
    "settings": {"streams": [1, 4]},
    "figures": {
        "engine decode 1": {"median": 10.0, "low": 9.0, "high": 11.0},
        "engine decode 4": {"median": 30.0, "low": 29.0, "high": 31.0},
        "product decode 1": {"median": 8.0, "low": 7.0, "high": 9.0},
        "product decode 1, 2 stages": {"median": 1.0, "low": 1.0, "high": 1.0},
    },
}


def test_a_curve_for_each_contender_that_was_measured() -> None:
    assert curves(ENTRY) == {"engine": [(1, 10.0, 9.0, 11.0), (4, 30.0, 29.0, 31.0)], "product": [(1, 8.0, 7.0, 9.0)]}


def test_the_picture_and_an_empty_one(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw([ENTRY, {**ENTRY, "model": "large"}], tmp_path / "one.svg")
    draw([ENTRY, {**ENTRY, "model": "large"}], tmp_path / "other.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    assert ElementTree.parse(tmp_path / "one.svg").getroot().tag.endswith("svg")
    with pytest.raises(NotFound, match="nothing was measured"):
        draw([], tmp_path / "none.svg")
