"""How request times and joules were distributed: of the last hour from the requests themselves, before that from sketches of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from fleet.store.database import Store
from fleet.store.tables import request_costs, request_sketches, requests
from fleet.telemetry.sketches import Sketch
from fleet.telemetry.views import Percentiles, PercentileSeries, Source

PercentilesBy = Literal["model", "deployment"]
PERCENTILES_BY: Mapping[str, PercentilesBy] = {"deployment": "deployment", "model": "model"}
MOST_PERCENTILES = 20  # of a query
# Requests older than the first figure are in sketches, one for each window of the second. Windows are multiples of one another.
HOUR, MINUTE = 3600.0, 60.0
DAY, QUARTER = 24 * 3600.0, 900.0
WINDOWS = (MINUTE, QUARTER)
CHUNK_SECONDS = 3600.0  # of requests or windows in one transaction

# Figure, how it is known, and the column of `requests`: seconds are measured by the wall's clock, or modelled.
_COLUMNS: tuple[tuple[str, Source, str], ...] = (
    ("queue_seconds", "measured", "queue_seconds"),
    ("ttft_seconds", "measured", "ttft_seconds"),
    ("ttft_seconds", "modelled", "modelled_ttft_seconds"),
    ("tpot_seconds", "measured", "tpot_seconds"),
    ("tpot_seconds", "modelled", "modelled_tpot_seconds"),
    ("total_seconds", "measured", "total_seconds"),
)
JOULES = "joules_per_token"
FIGURES = (*dict.fromkeys(figure for figure, _, _ in _COLUMNS), JOULES)
_sketched = request_sketches.c


class Key(NamedTuple):
    """Of what a distribution is."""

    model: str
    deployment: str
    figure: str
    source: Source


class Observed(NamedTuple):
    """One figure of one request."""

    finished_at: float
    key: Key
    value: float


def percentiles(connection: Connection, at: Sequence[float], by: PercentilesBy, wanted: Sequence[float]) -> Percentiles:
    """Of the requests that ended in each interval between two of the moments `at` (unix seconds), and of all. `wanted`: 0 to 100.

    An interval is no finer than the windows of its age. What failed has no figures.
    """
    found: dict[Key, dict[int, Sketch]] = {}

    def add(number: int, key: Key, sketch: Sketch) -> None:
        name = key.model if by == "model" else key.deployment
        series = found.setdefault(Key(name, name, key.figure, key.source), {})
        series[number] = series[number].merged(sketch) if number in series else sketch

    begin = max(at[0], _sketched_to(connection))
    for begins_at, key, sketch in _stored(connection, at[0], at[-1], *WINDOWS):
        add(bisect_right(at, begins_at) - 1, key, sketch)
    for (number, key), sketch in _grouped(observed(connection, begin, at[-1]), lambda moment: bisect_right(at, moment) - 1):
        add(number, key, sketch)
    order = sorted(found, key=lambda key: (key.deployment, FIGURES.index(key.figure), key.source))
    series = tuple(_series(key, found[key], len(at) - 1, wanted) for key in order)
    return Percentiles(max(after - before for before, after in pairwise(at)), tuple(at[1:]), tuple(wanted), series)


def edges(start: float, stop: float, step: float) -> list[float]:
    """Multiples of `step` around a period, so that each window of a sketch is in one interval.

    >>> edges(12, 31, 5)
    [10, 15, 20, 25, 30, 35]
    """
    return [number * step for number in range(int(start // step), int(stop // step) + 2)]


def condense(store: Store, now: float, keep_seconds: float) -> None:
    """Requests older than an hour into sketches of a minute, those older than a day into sketches of a quarter of an hour; none is kept
    longer than `keep_seconds`. A request that is recorded more than an hour after its end is in none.
    """
    horizon = _floor(now - HOUR, MINUTE)
    while (begin := _next_request(store, horizon)) is not None:
        end = min(_floor(begin, MINUTE) + CHUNK_SECONDS, horizon)
        with store.writing() as connection:
            _write(connection, MINUTE, _grouped(observed(connection, begin, end), lambda moment: int(moment // MINUTE)))
    horizon = _floor(now - DAY, QUARTER)
    while _coarsen(store, horizon):
        pass
    with store.writing() as connection:
        connection.execute(delete(request_sketches).where(_sketched.begins_at < now - keep_seconds))


def _coarsen(store: Store, before: float) -> bool:
    """Some of the sketches of minutes that are older; False when there is none."""
    fine = _of(MINUTE)
    with store.writing() as connection:
        first = connection.execute(select(func.min(_sketched.begins_at)).where(fine, _sketched.begins_at < before)).scalar()
        if first is None:
            return False
        end = min(_floor(first, QUARTER) + CHUNK_SECONDS, before)
        merged: dict[tuple[int, Key], Sketch] = {}
        for begins_at, key, sketch in _stored(connection, first, end, MINUTE):
            place = (int(begins_at // QUARTER), key)
            merged[place] = merged[place].merged(sketch) if place in merged else sketch
        connection.execute(delete(request_sketches).where(fine, _sketched.begins_at < end))
        _write(connection, QUARTER, merged.items())
    return True


def observed(connection: Connection, begin: float, end: float) -> Iterator[Observed]:
    """Of the requests that ended in [begin, end), unix seconds, and did not fail: each figure that is known of them."""
    within = (requests.c.finished_at >= begin, requests.c.finished_at < end, requests.c.finish_reason != "error")
    names = (requests.c.finished_at, requests.c.model, requests.c.deployment)
    columns = [requests.c[column] for _, _, column in _COLUMNS]
    for at, model, deployment, tokens, *values in connection.execute(select(*names, requests.c.completion_tokens, *columns).where(*within)):
        for (figure, source, _), value in zip(_COLUMNS, values, strict=True):
            if value is not None and (tokens or figure in ("queue_seconds", "total_seconds")):
                yield Observed(at, Key(model, deployment, figure, source), value)
    each = func.sum(request_costs.c.joules) / requests.c.completion_tokens
    spent = (
        select(*names, request_costs.c.source, each)
        .join_from(requests, request_costs, requests.c.request_id == request_costs.c.request_id)
        .where(*within, requests.c.completion_tokens > 0, request_costs.c.joules.is_not(None))
        .group_by(requests.c.request_id, *names, requests.c.completion_tokens, request_costs.c.source)
    )
    for at, model, deployment, source, value in connection.execute(spent):
        yield Observed(at, Key(model, deployment, JOULES, source), value)


def _grouped(found: Iterable[Observed], place: Callable[[float], int]) -> Iterable[tuple[tuple[int, Key], Sketch]]:
    values: dict[tuple[int, Key], list[float]] = {}
    for one in found:
        values.setdefault((place(one.finished_at), one.key), []).append(one.value)
    return [(at, Sketch.of(some)) for at, some in values.items()]


def _of(*windows: float) -> ColumnElement[bool]:
    return _sketched.window_seconds.in_(windows)


def _stored(connection: Connection, begin: float, end: float, *windows: float) -> Iterator[tuple[float, Key, Sketch]]:
    query = select(*(_sketched[name] for name in ("begins_at", *Key._fields, "sketch")))
    for begins_at, *key, packed in connection.execute(query.where(_of(*windows), _sketched.begins_at >= begin, _sketched.begins_at < end)):
        yield begins_at, Key(*key), Sketch.unpacked(packed)


def _write(connection: Connection, window: float, found: Iterable[tuple[tuple[int, Key], Sketch]]) -> None:
    rows: list[Mapping[str, Any]] = [
        {"begins_at": number * window, "window_seconds": window, **key._asdict(), "sketch": sketch.packed()}
        for (number, key), sketch in found
    ]
    if rows:
        connection.execute(insert(request_sketches), rows)


def _sketched_to(connection: Connection) -> float:
    """Requests that ended before that (unix seconds) are in sketches."""
    last = [(connection.execute(select(func.max(_sketched.begins_at)).where(_of(window))).scalar(), window) for window in WINDOWS]
    return max((begins_at + window for begins_at, window in last if begins_at is not None), default=0.0)


def _next_request(store: Store, before: float) -> float | None:
    """When the first ended that is in no sketch."""
    with store.reading() as connection:
        ended = requests.c.finished_at
        without = (ended >= _sketched_to(connection), ended < before, requests.c.finish_reason != "error")
        return connection.execute(select(func.min(ended)).where(*without)).scalar()


def _series(key: Key, intervals: Mapping[int, Sketch], count: int, wanted: Sequence[float]) -> PercentileSeries:
    whole = Sketch.of(())
    for sketch in intervals.values():
        whole = whole.merged(sketch)
    return PercentileSeries(
        key=key.deployment,
        figure=key.figure,
        source=key.source,
        requests=whole.count,
        whole=tuple(whole.percentile(one) for one in wanted),
        requests_each=tuple(intervals[number].count if number in intervals else 0 for number in range(count)),
        values=tuple(
            tuple(intervals[number].percentile(one) if number in intervals else None for number in range(count)) for one in wanted
        ),
    )


def _floor(moment: float, window: float) -> float:
    return moment // window * window
