"""Which troubles befall a simulated fleet, and when: a pure function of a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

KILL_COORDINATOR = "kill coordinator"
WARM_UP_SECONDS = 2.0  # before the first
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 8.0  # that one lasts
# How often of each, and how it is written (`sim_devices.faults.USAGE`). A bit that flips stays flipped until the device finds it.
_KINDS: tuple[tuple[int, str], ...] = (
    (4, "kill {a}"),
    (3, "hang {a}"),
    (3, "cut {a} {b}"),
    (2, "cut {a} coordinator"),
    (1, "partition {a} | {b}"),
    (2, "slow {a} {factor}"),
    (1, "overheat {a}"),
    (1, "full-disk {a}"),
    (1, "clock-skew {a} {skew}"),
    (1, "flip-bit {a}"),
    (2, KILL_COORDINATOR),
)


@dataclass(frozen=True)
class Trouble:
    """Begins `at_seconds` after the start and is undone after `for_seconds`. `what` as `sim fault` reads it, or KILL_COORDINATOR: it is
    started again when its time is over."""

    at_seconds: float
    for_seconds: float
    what: str


def troubles(seed: int, seconds: float, every_seconds: float, names: Sequence[str]) -> tuple[Trouble, ...]:
    """One every so many seconds in the mean, with exponential gaps, as of faults that know nothing of each other; all are over `seconds`
    after the start. `names` of at least two devices."""
    chance = random.Random(f"chaos {seed}")  # nosec B311 # the same every time
    found: list[Trouble] = []
    at = WARM_UP_SECONDS
    while True:
        at += chance.expovariate(1.0 / every_seconds)
        lasts = chance.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)
        [(_, form)] = chance.choices(_KINDS, weights=[weight for weight, _ in _KINDS])
        one, other = chance.sample(list(names), 2)
        what = form.format(a=one, b=other, factor=chance.choice((2, 4, 10)), skew=chance.choice(("+1h", "-10m")))
        if at + lasts > seconds:
            return tuple(found)
        found.append(Trouble(round(at, 3), round(lasts, 3), what))


def scenario_text(of: Sequence[Trouble], seed: int) -> str:
    """The file by which the fleet's world carries them out; the coordinator is no part of it."""
    entries = [
        f'[[faults]]\nat = "{one.at_seconds}s"\nfor = "{one.for_seconds}s"\ndo = "{one.what}"\n'
        for one in of
        if one.what != KILL_COORDINATOR
    ]
    return "\n".join([f"seed = {seed}\n", *entries])
