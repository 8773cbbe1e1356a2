"""Queries over the telemetry tables: growth of counters over a period, and sums of finished requests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, Subquery, and_, case, func, literal, null, or_, select

from fleet.store.tables import devices, pipeline_samples, request_costs, requests, samples
from fleet.telemetry.views import CostRow, Source

Field = Literal["model", "deployment", "request"]


def by_device(connection: Connection, start: float, stop: float) -> list[CostRow]:
    """Per device and source, in order of the devices' names: what its counters grew by in (start, stop], unix seconds.

    The period begins at the last sample before `start`, so it is a sample's interval too long. A boot that began within it counts from
    zero; one that began earlier but was first heard of within it counts from there.
    """
    found: dict[tuple[str, Source], _Growth] = {}
    seen = _seen(start, stop)
    boot = (seen.c.device_id, seen.c.boot_id)
    joules = select(
        seen.c.device_id,
        seen.c.source,
        _growth(seen.c.busy_joules, boot, seen, seen.c.fresh).label("busy_joules"),
        _growth(seen.c.idle_joules, boot, seen, seen.c.fresh).label("idle_joules"),
    ).subquery()
    query = select(joules.c.device_id, joules.c.source, func.sum(joules.c.busy_joules), func.sum(joules.c.idle_joules))
    for device, source, busy, idle in connection.execute(query.group_by(joules.c.device_id, joules.c.source)):
        found[device, source] = _Growth(busy_joules=busy, idle_joules=idle)

    counters = pipeline_samples
    same = and_(
        counters.c.device_id == seen.c.device_id, counters.c.boot_id == seen.c.boot_id, counters.c.sample_index == seen.c.sample_index
    )
    pipeline = (*boot, counters.c.pipeline_id)
    # A pipeline that appears after the first sample of its boot was loaded then, and counts from zero.
    from_zero = or_(seen.c.fresh, seen.c.place > 1)
    seconds = (
        select(
            seen.c.device_id,
            seen.c.source,
            _growth(counters.c.busy_seconds, pipeline, seen, from_zero).label("wall"),
            _growth(counters.c.modelled_busy_seconds, pipeline, seen, from_zero).label("modelled"),
        )
        .join_from(seen, counters, same)
        .subquery()
    )
    totals = select(seconds.c.device_id, seconds.c.source, func.sum(seconds.c.wall), func.sum(seconds.c.modelled))
    for device, source, wall, modelled in connection.execute(totals.group_by(seconds.c.device_id, seconds.c.source)):
        growth = found.get((device, source), _Growth())
        found[device, source] = replace(growth, busy_seconds=wall or 0.0, modelled_busy_seconds=modelled or 0.0)

    served = _served(connection, start, stop)
    known = {row.device_id: (row.name, bool(row.hollow)) for row in connection.execute(select(devices))}
    rows = []
    for device, source in sorted({*found, *served}):
        growth = found.get((device, source), _Growth())
        name, hollow = known.get(device, (device, False))
        count, prompt, completion = served.get((device, source), (0, 0, 0))
        rows.append(
            CostRow(
                key=name,
                device_id=device,
                requests=count,
                prompt_tokens=prompt,
                completion_tokens=completion,
                busy_seconds=growth.busy_seconds,
                # A device that models time says so by its energy or by its counter; a real one leaves the counter at 0.
                modelled_busy_seconds=growth.modelled_busy_seconds if source == "modelled" or growth.modelled_busy_seconds else None,
                busy_joules=growth.busy_joules,
                idle_joules=growth.idle_joules,
                joules_per_token=_per_token(growth.busy_joules, completion),
                source=source,
                hollow=hollow,
            )
        )
    return sorted(rows, key=lambda row: (row.key, row.device_id, row.source))


def by_request_field(connection: Connection, start: float, stop: float, field: Field) -> list[CostRow]:
    """Per model, deployment or request, and source: what the requests finished in (start, stop] used on all devices."""
    key = {"model": requests.c.model, "deployment": requests.c.deployment, "request": requests.c.request_id}[field]
    used = (
        select(
            request_costs.c.request_id,
            request_costs.c.source,
            func.sum(request_costs.c.busy_seconds).label("wall"),
            func.sum(request_costs.c.modelled_busy_seconds).label("modelled"),
            func.sum(request_costs.c.joules).label("joules"),
        )
        .group_by(request_costs.c.request_id, request_costs.c.source)
        .subquery()
    )
    # A request that ended before any device said what it cost is unmetered, not free.
    source = func.coalesce(used.c.source, "unmetered")
    query = (
        select(
            key,
            source,
            func.count(),
            func.sum(requests.c.prompt_tokens),
            func.sum(requests.c.completion_tokens),
            func.coalesce(func.sum(used.c.wall), 0.0),
            func.sum(used.c.modelled),
            func.sum(used.c.joules),
        )
        .join_from(requests, used, requests.c.request_id == used.c.request_id, isouter=True)
        .where(requests.c.finished_at > start, requests.c.finished_at <= stop)
        .group_by(key, source)
        .order_by(func.min(requests.c.finished_at) if field == "request" else key, key, source)
    )
    return [
        CostRow(
            key=name,
            device_id="",
            requests=count,
            prompt_tokens=int(prompt),
            completion_tokens=int(completion),
            busy_seconds=wall,
            modelled_busy_seconds=modelled,
            busy_joules=joules,
            idle_joules=None,
            joules_per_token=_per_token(joules, int(completion)),
            source=source,
        )
        for name, source, count, prompt, completion, wall, modelled, joules in connection.execute(query)
    ]


@dataclass(frozen=True)
class _Growth:
    busy_seconds: float = 0.0
    modelled_busy_seconds: float = 0.0
    busy_joules: float | None = None
    idle_joules: float | None = None


def _seen(start: float, stop: float) -> Subquery:
    """Samples of the period, and of each boot the last one before it. `place` counts a boot's samples from 1; `fresh`: it booted in it."""
    before = (
        select(samples.c.device_id, samples.c.boot_id, func.max(samples.c.sample_index).label("sample_index"))
        .where(samples.c.received_at <= start)
        .group_by(samples.c.device_id, samples.c.boot_id)
        .subquery()
    )
    same_boot = and_(before.c.device_id == samples.c.device_id, before.c.boot_id == samples.c.boot_id)
    return (
        select(
            *(samples.c[name] for name in ("device_id", "boot_id", "sample_index", "source", "busy_joules", "idle_joules")),
            func.row_number().over(partition_by=(samples.c.device_id, samples.c.boot_id), order_by=samples.c.sample_index).label("place"),
            (samples.c.received_at - samples.c.uptime_seconds >= start).label("fresh"),
        )
        .join_from(samples, before, same_boot, isouter=True)
        .where(samples.c.received_at <= stop, or_(samples.c.received_at > start, samples.c.sample_index == before.c.sample_index))
        .subquery()
    )


def _growth(
    counter: ColumnElement[float], partition: tuple[ColumnElement[str], ...], seen: Subquery, from_zero: ColumnElement[bool]
) -> ColumnElement[float | None]:
    """By how much this sample's counter exceeds the one before; a counter that fell began anew. NULL where nothing was metered."""
    before = func.lag(counter).over(partition_by=partition, order_by=seen.c.sample_index)
    first = func.row_number().over(partition_by=partition, order_by=seen.c.sample_index) == 1
    return case(
        (counter.is_(None), null()),
        (and_(first, from_zero), counter),
        (or_(first, before.is_(None)), literal(0.0)),
        (counter < before, counter),
        else_=counter - before,
    )


def _served(connection: Connection, start: float, stop: float) -> dict[tuple[str, Source], tuple[int, int, int]]:
    """Per device and source: requests, and tokens of their prompts and of their answers."""
    tokens = (requests.c.prompt_tokens, requests.c.completion_tokens)
    query: Select[Any] = (
        select(request_costs.c.device_id, request_costs.c.source, func.count(), *(func.sum(column) for column in tokens))
        .join_from(request_costs, requests, request_costs.c.request_id == requests.c.request_id)
        .where(requests.c.finished_at > start, requests.c.finished_at <= stop)
        .group_by(request_costs.c.device_id, request_costs.c.source)
    )
    return {(row[0], row[1]): (row[2], int(row[3]), int(row[4])) for row in connection.execute(query)}


def _per_token(joules: float | None, tokens: int) -> float | None:
    return joules / tokens if joules is not None and tokens else None
