"""Queries over the telemetry tables: growth of counters over a period, and sums of finished requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, FromClause, and_, case, func, or_, select

from fleet.store.tables import devices, pipeline_samples, request_costs, requests, samples
from fleet.telemetry import coverage
from fleet.telemetry.coverage import Account, Boot, Counters, Point
from fleet.telemetry.views import CostRow, Source

Field = Literal["model", "deployment", "request"]

_SAMPLE = ("device_id", "boot_id", "sample_index")
# Older stores hold, as unmetered, shares of requests that ended before they ran.
_WORKED = or_(request_costs.c.busy_seconds > 0, request_costs.c.joules.is_not(None))


def by_device(connection: Connection, start: float, stop: float, spacing: float = 0.0) -> list[CostRow]:
    """Per device and source, in order of the devices' names: what its counters grew by in (start, stop], unix seconds.

    `spacing` as of `coverage.account`.
    """
    boots: dict[str, list[Boot]] = {}
    for device, boot in _boots(connection, start, stop):
        boots.setdefault(device, []).append(boot)
    served = _served(connection, start)
    known = {row.device_id: (row.name, bool(row.hollow)) for row in connection.execute(select(devices))}
    rows = []
    for device in {*boots, *served}:
        name, hollow = known.get(device, (device, False))
        if device not in boots:  # it took part in requests, but no sample of it was kept
            rows += [_unheard(name, device, hollow, source, count, stop - start) for source, count in served[device].items()]
            continue
        account = coverage.account(boots[device], start, stop, spacing)
        rows += [_device_row(name, device, hollow, served.get(device, {}), account, source) for source in account.growth]
    return sorted(rows, key=lambda row: (row.key, row.device_id, row.source))


def _device_row(name: str, device: str, hollow: bool, served: Mapping[Source, int], account: Account, source: Source) -> CostRow:
    growth = account.growth[source]
    counters = growth.counters
    modelled = counters.modelled_busy_seconds or 0.0
    return CostRow(
        key=name,
        device_id=device,
        requests=served.get(source, 0),
        prompt_tokens=counters.prompt_tokens,
        completion_tokens=counters.answer_tokens,
        busy_seconds=counters.busy_seconds or 0.0,
        # A device that models time says so by its energy or by its counter; a real one leaves the counter at 0.
        modelled_busy_seconds=modelled if source == "modelled" or modelled else None,
        busy_joules=counters.busy_joules,
        idle_joules=counters.idle_joules,
        joules_per_token=growth.joules_per_token,
        source=source,
        hollow=hollow,
        covered_seconds=account.covered_seconds,
        lost_seconds=account.lost_seconds,
        partial=account.partial,
    )


def _unheard(name: str, device: str, hollow: bool, source: Source, requests_: int, seconds: float) -> CostRow:
    return CostRow(name, device, requests_, None, None, 0.0, None, None, None, None, source, hollow, 0.0, seconds, partial=True)


def by_request_field(connection: Connection, start: float, field: Field) -> list[CostRow]:
    """Per model, deployment or request, and source: what the requests that have finished since `start` (unix seconds) used on all devices.

    A request for which no device worked, as one that was cancelled in the queue, counts in each row of its key; where there is no other,
    its row's source is "none". So does one that failed before any device said what it cost, and makes the row partial.
    """
    key = {"model": requests.c.model, "deployment": requests.c.deployment, "request": requests.c.request_id}[field]
    used = (
        select(
            request_costs.c.request_id,
            request_costs.c.source,
            func.sum(request_costs.c.busy_seconds).label("wall"),
            func.sum(request_costs.c.modelled_busy_seconds).label("modelled"),
            func.sum(request_costs.c.joules).label("joules"),
        )
        .where(_WORKED)
        .group_by(request_costs.c.request_id, request_costs.c.source)
        .subquery()
    )
    query = (
        select(
            key,
            used.c.source,
            func.count(),
            func.sum(requests.c.prompt_tokens),
            func.sum(requests.c.completion_tokens),
            func.coalesce(func.sum(used.c.wall), 0.0),
            func.sum(used.c.modelled),
            func.sum(used.c.joules),
            func.sum(case((requests.c.finish_reason == "error", 1), else_=0)),
        )
        .join_from(requests, used, requests.c.request_id == used.c.request_id, isouter=True)
        .where(requests.c.finished_at > start)
        .group_by(key, used.c.source)
        .order_by(func.min(requests.c.finished_at) if field == "request" else key, key, used.c.source)
    )
    found = [_RequestSum(*row) for row in connection.execute(query)]
    without = {one.key: one for one in found if one.source is None}
    worked = {one.key for one in found if one.source is not None}
    return [_request_row(one, without.get(one.key)) for one in found if one.source is not None or one.key not in worked]


@dataclass(frozen=True)
class _RequestSum:
    """Of the requests of one key and source; `source` None: no device said that it worked for them."""

    key: str
    source: Source | None
    requests: int
    prompt_tokens: int
    completion_tokens: int
    busy_seconds: float
    modelled_busy_seconds: float | None
    joules: float | None
    failed: int


def _request_row(used: _RequestSum, without: _RequestSum | None) -> CostRow:
    failed = without is not None and without.failed > 0
    if used.source is None:
        row = CostRow(used.key, "", used.requests, 0, 0, 0.0, None, 0.0, None, None, "none")
        return replace(row, busy_joules=None, source="unmetered", partial=True) if failed else row
    tokens = int(used.completion_tokens)
    return CostRow(
        key=used.key,
        device_id="",
        requests=used.requests + (without.requests if without else 0),
        prompt_tokens=int(used.prompt_tokens),
        completion_tokens=tokens,
        busy_seconds=used.busy_seconds,
        modelled_busy_seconds=used.modelled_busy_seconds,
        busy_joules=used.joules,
        idle_joules=None,
        joules_per_token=used.joules / tokens if used.joules is not None and tokens else None,
        source=used.source,
        partial=failed,
    )


def _boots(connection: Connection, start: float, stop: float) -> Iterator[tuple[str, Boot]]:
    """Every boot that is stored, with its device."""
    newest = (
        select(samples.c.device_id, samples.c.boot_id, func.max(samples.c.sample_index).label("sample_index"))
        .group_by(samples.c.device_id, samples.c.boot_id)
        .subquery()
    )
    last = select(samples).join(newest, and_(*(newest.c[name] == samples.c[name] for name in _SAMPLE))).subquery("last")
    # Where the period begins, by the device's own clock.
    heard_at = case((last.c.received_at < stop, last.c.received_at), else_=stop)
    begins = last.c.uptime_seconds - (heard_at - start)
    same_boot = and_(samples.c.device_id == last.c.device_id, samples.c.boot_id == last.c.boot_id)
    same_meter = and_(samples.c.source == last.c.source, samples.c.answer_tokens.is_(None) == last.c.answer_tokens.is_(None))
    index = samples.c.sample_index
    bounds = (
        select(
            last.c.device_id,
            last.c.boot_id,
            func.max(case((and_(same_meter, samples.c.uptime_seconds <= begins), index))).label("base"),
            func.min(case((and_(same_meter, samples.c.uptime_seconds > begins), index))).label("first"),
            func.max(samples.c.uptime_seconds).label("highest_uptime"),
            func.min(case((same_meter, 1), else_=0)).label("of_one_meter"),
        )
        .join_from(last, samples, same_boot)
        .where(last.c.received_at > start)
        .group_by(last.c.device_id, last.c.boot_id)
        .subquery("bounds")
    )
    base, first = samples.alias("base"), samples.alias("first")

    def at(one: FromClause, sample_index: ColumnElement[int]) -> ColumnElement[bool]:
        return and_(one.c.device_id == last.c.device_id, one.c.boot_id == last.c.boot_id, one.c.sample_index == sample_index)

    query = (
        select(last.c.device_id, last.c.source, last.c.received_at, bounds.c.highest_uptime, bounds.c.of_one_meter)
        .add_columns(*_point(last), *_point(base), *_point(first))
        .join_from(last, bounds, and_(bounds.c.device_id == last.c.device_id, bounds.c.boot_id == last.c.boot_id), isouter=True)
        .join(base, at(base, bounds.c.base), isouter=True)
        .join(first, at(first, bounds.c.first), isouter=True)
    )
    for device, source, heard, highest, of_one_meter, *points in connection.execute(query):
        size = len(points) // 3
        ends = [Point(uptime, Counters(*told)) for uptime, *told in (points[number * size : (number + 1) * size] for number in range(3))]
        doubtful = bool(ends[2].uptime_seconds is not None and (not of_one_meter or highest > ends[0].uptime_seconds))
        base_point, first_point = (point if point.uptime_seconds is not None else None for point in ends[1:])
        yield device, Boot(source, heard, ends[0], base_point, first_point, doubtful)


def _point(sample: FromClause) -> list[ColumnElement[Any]]:
    """Columns: uptime, then the fields of Counters. Of a device that does not count its work, seconds are those of its stages."""
    told = sample.c.answer_tokens.is_not(None)
    stages = [
        select(func.sum(pipeline_samples.c[name]))
        .where(*(pipeline_samples.c[key] == sample.c[key] for key in _SAMPLE))
        .correlate(sample)
        .scalar_subquery()
        for name in ("busy_seconds", "modelled_busy_seconds")
    ]
    return [
        sample.c.uptime_seconds,
        case((told, sample.c.work_joules), else_=sample.c.busy_joules),
        sample.c.idle_joules,
        case((told, sample.c.work_seconds), else_=stages[0]),
        case((told, sample.c.modelled_work_seconds), else_=stages[1]),
        sample.c.prefill_tokens,
        sample.c.answer_tokens,
    ]


def _served(connection: Connection, start: float) -> dict[str, dict[Source, int]]:
    """Per device and source: of how many requests that have ended since `start` it said that it ran for them."""
    query = (
        select(request_costs.c.device_id, request_costs.c.source, func.count())
        .join_from(request_costs, requests, request_costs.c.request_id == requests.c.request_id)
        .where(requests.c.finished_at > start, request_costs.c.busy_seconds > 0)
        .group_by(request_costs.c.device_id, request_costs.c.source)
    )
    served: dict[str, dict[Source, int]] = {}
    for device, source, count in connection.execute(query):
        served.setdefault(device, {})[source] = count
    return served
