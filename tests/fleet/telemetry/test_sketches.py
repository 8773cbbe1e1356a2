"""A sketch tells percentiles within its error however often it was merged and stored, and keeps few values exactly."""

from __future__ import annotations

import random

import pytest

from fleet.telemetry.sketches import Sketch


def rank_error(sketch: Sketch, values: list[float], percent: float) -> float:
    found = sketch.percentile(percent)
    assert found is not None
    return abs(sum(value <= found for value in values) / len(values) - percent / 100)


@pytest.mark.parametrize(("percent", "most"), [(50, 0.05), (90, 0.02), (99, 0.004), (99.9, 0.001)])
def test_merged_out_of_many_it_is_as_close_as_it_says(percent: float, most: float) -> None:
    dice = random.Random(7)
    values = [dice.lognormvariate(-3, 1) for _ in range(30_000)]
    whole = Sketch.of(())
    for begin in range(0, len(values), 60):
        whole = whole.merged(Sketch.unpacked(Sketch.of(values[begin : begin + 60]).packed()))
    assert whole.count == len(values)
    assert rank_error(whole, values, percent) <= most
    assert len(whole.packed()) < 10_000


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_few_values_are_kept_as_they_are(count: int) -> None:
    values = [float(number) for number in range(count)]
    random.Random(1).shuffle(values)
    sketch = Sketch.unpacked(Sketch.of(values[: count // 2]).merged(Sketch.of(values[count // 2 :])).packed())
    assert [sketch.percentile(percent) for percent in (0, 100)] == [0.0, count - 1.0]
    assert sketch.percentile(50) == (count + 1) // 2 - 1
    assert len(sketch.packed()) <= 40 + 4 * count


def test_of_nothing_there_is_no_percentile() -> None:
    assert Sketch.of(()).percentile(99) is None
    assert Sketch.unpacked(Sketch.of(()).packed()).count == 0
