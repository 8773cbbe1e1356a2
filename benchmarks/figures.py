"""From measurements to figures: medians with their spread, and ratios taken round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """Of one measurement over the rounds."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Target:
    """A ratio of two measurements, and what it should be: at least, or `at_most`."""

    name: str
    over: str
    under: str
    wanted: float | None
    at_most: bool = False

    def reached(self, ratio: float) -> bool | None:
        if self.wanted is None:
            return None
        return ratio <= self.wanted if self.at_most else ratio >= self.wanted


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    wanted: float | None
    at_most: bool
    ratio: Spread
    reached: bool | None


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values), len(values))


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Each round's own ratio: what slows a whole round down falls out."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def rows(targets: Sequence[Target], samples: Mapping[str, Sequence[float]]) -> list[Row]:
    """Of those targets whose two measurements there are."""
    found = []
    for target in targets:
        over, under = samples.get(target.over), samples.get(target.under)
        if over and under:
            value = ratio(over, under)
            found.append(Row(target.name, target.wanted, target.at_most, value, target.reached(value.median)))
    return found
