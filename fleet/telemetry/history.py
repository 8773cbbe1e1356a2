"""How a fleet or a device went: its counters at evenly spaced moments made into rates of the intervals between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from fleet.telemetry.views import History, HistorySeries, Source

# Each a multiple of what thinning keeps at the ages for which it is chosen (fleet/telemetry/records.py).
STEPS = (
    *(5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 900.0, 1800.0, 2700.0, 3600.0, 7200.0, 14400.0, 28800.0),
    *(86400.0, 604800.0, 2592000.0),
)
MOST_POINTS = 500
# That a query of all devices reads, which bounds what it takes (benchmarks/history.py).
MOST_ROWS = 40_000
# A device is sampled once a second: of one that was silent for so long before a moment nothing is known there.
HEARD_SECONDS = 2.0


class Stand(NamedTuple):
    """A sample: counters since the device's boot, and gauges. None: not told."""

    device_id: str
    boot_id: str
    source: Source
    temperature_celsius: float | None
    memory_bytes: int
    idle_joules: float | None  # what a meter tells beyond the work: it may go back a little
    uptime_seconds: float
    busy_joules: float | None
    work_joules: float | None
    work_seconds: float | None
    modelled_work_seconds: float | None
    answer_tokens: float | None


@dataclass(frozen=True)
class Slice:
    """What was known of each device at one moment, by its id. `rows`: decoded by each pipeline's stage there."""

    stands: Mapping[str, Stand]
    rows: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class Change(NamedTuple):
    """Of one device in one interval. Watts and busy share are of its own time: modelled where that is what it counts. `shares`: of its
    tokens, by pipeline."""

    stand: Stand
    watts: float | None
    busy_share: float | None
    tokens_per_second: float | None
    joules_per_second: float | None  # of work, in the time of the tokens
    shares: Mapping[str, float]


_NONE: Mapping[str, int] = {}
_ALONE: Mapping[str, float] = {"": 1.0}  # whatever a device counts is of one pipeline, as far as its stages tell


def step_seconds(since_seconds: float, spacing: float, devices: int) -> float:
    """Between two moments of a period. `spacing`: between samples that are kept at its start (0: as they came); `devices`: of the query.

    >>> step_seconds(600, 0, 1), step_seconds(86400, 60, 1), step_seconds(86400, 60, 1000), step_seconds(30 * 86400, 900, 1)
    (5.0, 180.0, 2700.0, 7200.0)
    """
    rows = HEARD_SECONDS if not spacing else 1.0
    least = max(spacing, since_seconds / MOST_POINTS, since_seconds * devices * rows / MOST_ROWS)
    return next((step for step in STEPS if step >= least), STEPS[-1])


def moments(start: float, stop: float, step: float) -> list[float]:
    """Multiples of `step` from the last at or before `start`, then `stop` where that is not just behind one.

    >>> moments(12, 31, 5)
    [10, 15, 20, 25, 30]
    >>> moments(12, 34, 5)
    [10, 15, 20, 25, 30, 34]
    """
    first, last = int(start // step), int(stop // step)
    found = [number * step for number in range(first, last + 1)]
    return [*found, stop] if stop - found[-1] > HEARD_SECONDS else found


def history(key: str, device_id: str, at: Sequence[float], slices: Sequence[Slice], hollow: Iterable[str]) -> History:
    """A series for each source, hollow devices apart. `at` are the slices' moments (unix seconds); `hollow`: ids of such devices.

    An interval in which a device was not heard at both ends, or which it booted before, has none of its figures; one in which it booted
    has those since then.
    """
    computes_nothing = frozenset(hollow)
    slices = bridged(at, slices)
    points: dict[tuple[Source, bool], dict[int, _Point]] = {}
    for number in range(1, len(at)):
        before, after, length = slices[number - 1], slices[number], at[number] - at[number - 1]
        groups: dict[tuple[Source, bool], list[Change]] = {}
        for device, stand in after.stands.items():
            rows = (before.rows.get(device, _NONE), after.rows.get(device, _NONE))
            if (found := change(before.stands.get(device), stand, length, *rows)) is not None:
                groups.setdefault((stand.source, device in computes_nothing), []).append(found)
        for group, changes in groups.items():
            points.setdefault(group, {})[number - 1] = _point(changes)
    step = max((after - before for before, after in pairwise(at)), default=0.0)
    series = [
        _series(key, device_id, *group, [points[group].get(number, _SILENT) for number in range(len(at) - 1)]) for group in sorted(points)
    ]
    return History(step, tuple(at[1:]), tuple(series))


def change(
    before: Stand | None, after: Stand, length: float, rows_before: Mapping[str, int] = _NONE, rows: Mapping[str, int] = _NONE
) -> Change | None:
    """In an interval of `length` seconds, at whose ends these samples came. None where they do not tell."""
    if before is None or before.boot_id != after.boot_id:
        if after.uptime_seconds > length:
            return None
        before, rows_before = _ZERO, _NONE
    grown = _grown(before, after) if before is _ZERO or before.source == after.source else None
    if grown is None:
        return None
    elapsed, running, joules, wall, modelled, tokens = grown
    if not elapsed:
        return None
    busy = modelled or wall
    # A simulated device that is not held to its pace lives in modelled time: idle as long as it was, busy as long as a real one had been.
    own = max(modelled, elapsed - (wall or 0.0) + modelled) if modelled else elapsed
    idle = (after.idle_joules or 0.0) - (before.idle_joules or 0.0)
    return Change(
        after,
        None if running is None else max(0.0, running + idle) / own,
        None if busy is None else min(1.0, busy / own),
        None if tokens is None else tokens / elapsed,
        None if joules is None else joules / elapsed,
        _shares(rows_before, rows) if rows or rows_before else _ALONE,
    )


def bridged(at: Sequence[float], slices: Sequence[Slice]) -> list[Slice]:
    """With a device that was not heard at one moment, but in the same boot at those beside it, as if its counters had grown evenly."""
    found = list(slices)
    for number in range(1, len(at) - 1):
        before, here, after = found[number - 1].stands, slices[number].stands, slices[number + 1].stands
        missing = [device for device in before.keys() - here.keys() if device in after and _goes_on(before[device], after[device])]
        if missing:
            part = (at[number] - at[number - 1]) / (at[number + 1] - at[number - 1])
            between = {device: _between(before[device], after[device], part) for device in missing}
            found[number] = Slice({**here, **between}, {**slices[number - 1].rows, **slices[number].rows})
    return found


class _Point(NamedTuple):
    """Of a group of devices in one interval, in the order of HistorySeries' fields."""

    devices: int
    watts: float | None
    tokens_per_second: float | None
    busy_share: float | None
    temperature_celsius: float | None
    memory_bytes: int | None
    joules_per_token: float | None


_FIRST_COUNTER = Stand._fields.index("uptime_seconds")
_SILENT = _Point(0, None, None, None, None, None, None)
_ZERO = Stand("", "", "unmetered", None, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)


def _point(changes: Sequence[Change]) -> _Point:
    """Every stage of a ring counts each token, so those of a pipeline are divided by the devices here that have a stage of it."""
    watts = [one.watts for one in changes if one.watts is not None]
    busy = [one.busy_share for one in changes if one.busy_share is not None]
    heat = [one.stand.temperature_celsius for one in changes if one.stand.temperature_celsius is not None]
    stages = Counter(pipeline for one in changes for pipeline in one.shares)
    counted = [one for one in changes if one.tokens_per_second is not None]
    tokens = sum((one.tokens_per_second or 0.0) * sum(share / stages[name] for name, share in one.shares.items()) for one in counted)
    metered = [one.joules_per_second for one in counted if one.joules_per_second is not None]
    return _Point(
        devices=len(changes),
        watts=sum(watts) if watts else None,
        tokens_per_second=tokens if counted else None,
        busy_share=sum(busy) / len(busy) if busy else None,
        temperature_celsius=max(heat, default=None),
        memory_bytes=sum(one.stand.memory_bytes for one in changes),
        joules_per_token=sum(metered) / tokens if metered and tokens else None,
    )


def _series(key: str, device_id: str, source: Source, hollow: bool, points: Sequence[_Point]) -> HistorySeries:
    columns = zip(*points, strict=True) if points else ((),) * len(_Point._fields)
    return HistorySeries(key, device_id, source, hollow, *columns)


def _shares(before: Mapping[str, int], after: Mapping[str, int]) -> Mapping[str, float]:
    """Of a device's tokens, by its pipelines: as the rows that it decoded for each. A stage that was loaded anew counts from zero."""
    names = {*before, *after}
    if len(names) == 1:
        return dict.fromkeys(names, 1.0)
    rows = {name: _since(before.get(name, 0), after.get(name, 0)) for name in names}
    total = sum(rows.values())
    return {name: count / total if total else 1 / len(rows) for name, count in rows.items()}


def _since(before: int, after: int) -> int:
    return after - before if after >= before else after


def _grown(before: Stand, after: Stand) -> list[float | None] | None:
    """By how much the counters grew, in their order. None when one fell: they count no more from where they did."""
    grown: list[float | None] = []
    for was, now in zip(before[_FIRST_COUNTER:], after[_FIRST_COUNTER:], strict=True):
        if was is None or now is None:
            grown.append(None)
        elif now >= was:  # type: ignore[operator]
            grown.append(now - was)  # type: ignore[operator]
        else:
            return None
    return grown


def _goes_on(before: Stand, after: Stand) -> bool:
    return before.boot_id == after.boot_id and before.source == after.source and _grown(before, after) is not None


def _between(before: Stand, after: Stand, part: float) -> Stand:
    """Its counters `part` of the way; its gauges are those before."""
    counters = zip(before[_FIRST_COUNTER - 1 :], after[_FIRST_COUNTER - 1 :], strict=True)
    between = [None if was is None or now is None else was + part * (now - was) for was, now in counters]  # type: ignore[operator]
    return Stand._make([*before[: _FIRST_COUNTER - 1], *between])
