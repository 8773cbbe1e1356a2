from __future__ import annotations

import pytest

from benchmarks.figures import Target, ratio, rows, spread


def test_spread() -> None:
    found = spread([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.rounds) == (2.0, 1.0, 3.0, 3)


def test_a_ratio_is_taken_round_by_round() -> None:
    # The second round was slow for both: the ratio does not know.
    assert ratio([10.0, 1.0, 20.0], [5.0, 0.5, 5.0]).median == 2.0
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0], [1.0, 2.0])


def test_rows_of_what_was_measured() -> None:
    targets = [
        Target("fast", "a", "b", 1.5),
        Target("low", "a", "b", 1.5, at_most=True),
        Target("told", "a", "b", None),
        Target("not measured", "a", "c", 1.0),
    ]
    found = rows(targets, {"a": [2.0], "b": [1.0]})
    assert [(row.name, row.ratio.median, row.reached) for row in found] == [("fast", 2.0, True), ("low", 2.0, False), ("told", 2.0, None)]
