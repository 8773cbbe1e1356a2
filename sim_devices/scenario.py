"""Which fault happens when: a pure function of the file and its seed, and the log's form of it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sim_devices.faults import Fault, resolve

Act = Literal["start", "end"]


@dataclass(frozen=True)
class PlannedFault:
    """At a moment between `earliest_seconds` and `latest_seconds` (equal: then), for `for_seconds` (None: until healed)."""

    fault: Fault
    earliest_seconds: float
    latest_seconds: float
    for_seconds: float | None = None


@dataclass(frozen=True)
class ScenarioEvent:
    """`number` is the fault's place in its file, from 1: the same for its start and its end."""

    at_ms: int
    number: int
    act: Act
    fault: Fault

    @property
    def order(self) -> tuple[int, bool, int]:
        """Of those at one time, ends come first."""
        return self.at_ms, self.act == "start", self.number


def timeline(
    planned: Sequence[PlannedFault], names: Sequence[str], seed: int, *, first: int = 1, zero_ms: int = 0
) -> tuple[ScenarioEvent, ...]:
    """In order of time, by the seed alone. Each fault has its own chance, so that one more in the file changes no other.

    `first` is the first fault's number, `zero_ms` the log's time from which the plan counts.

    Raises NotFound for a selector that matches none of `names`.
    """
    events = []
    for number, one in enumerate(planned, first):
        chance = random.Random(f"{seed}/{number}")  # nosec B311 # the same every time; of a text: not through hash()
        at = chance.uniform(one.earliest_seconds, one.latest_seconds)
        at_ms = zero_ms + round(at * 1000)
        fault = resolve(one.fault, names, chance)
        events.append(ScenarioEvent(at_ms, number, "start", fault))
        if one.for_seconds is not None:
            events.append(ScenarioEvent(at_ms + round(one.for_seconds * 1000), number, "end", fault))
    return tuple(sorted(events, key=lambda event: event.order))


def log_line(at_ms: int, number: int, act: Act, what: str, detail: str = "") -> str:
    """One line of the event log: canonical JSON, time since the scenario's start, never this machine's clock."""
    return json.dumps({"at_ms": at_ms, "number": number, "act": act, "what": what, "detail": detail}, ensure_ascii=False)
