"""Samples at moments of a period, out of the store: of one device or of all, reading as few rows as tell it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select

from fleet.store.tables import devices, pipeline_samples, samples
from fleet.telemetry.history import HEARD_SECONDS, Slice, Stand

_STAND = (
    samples.c.device_id,
    samples.c.boot_id,
    samples.c.source,
    samples.c.temperature_celsius,
    samples.c.memory_used_bytes,
    samples.c.idle_joules,
    samples.c.uptime_seconds,
    samples.c.busy_joules,
    samples.c.work_joules,
    samples.c.work_seconds,
    samples.c.modelled_work_seconds,
    samples.c.answer_tokens,
)
_SAME = and_(*(pipeline_samples.c[name] == samples.c[name] for name in ("device_id", "boot_id", "sample_index")))
_ROWS = select(pipeline_samples.c.device_id, samples.c.received_at, pipeline_samples.c.pipeline_id, pipeline_samples.c.decode_tokens)


def count(connection: Connection) -> int:
    """Devices of which anything is stored."""
    return connection.execute(select(func.count()).select_from(devices)).scalar() or 0


def hollow(connection: Connection) -> list[str]:
    """Ids of the devices that compute nothing."""
    return list(connection.execute(select(devices.c.device_id).where(devices.c.hollow)).scalars())


def of_all(connection: Connection, moments: Sequence[float]) -> list[Slice]:
    """The last sample of each device in the seconds before each moment: a short range of the index by time, whatever lies between."""
    return [_slice(connection, moment) for moment in moments]


def of_device(connection: Connection, device_id: str, moments: Sequence[float]) -> list[Slice]:
    """As `of_all`, from the device's own rows."""
    within = and_(
        samples.c.device_id == device_id, samples.c.received_at > moments[0] - HEARD_SECONDS, samples.c.received_at <= moments[-1]
    )
    stands: list[dict[str, Stand]] = [{} for _ in moments]
    rows: list[dict[str, dict[str, int]]] = [{} for _ in moments]
    for row in connection.execute(select(samples.c.received_at, *_STAND).where(within).order_by(samples.c.received_at)):
        if (number := _place(row[0], moments)) is not None:
            stands[number][device_id] = Stand._make(row[1:])
    stages = _ROWS.join_from(pipeline_samples, samples, _SAME).where(within).order_by(samples.c.received_at)
    for _, received_at, pipeline, decoded in connection.execute(stages):
        if (number := _place(received_at, moments)) is not None:
            rows[number].setdefault(device_id, {})[pipeline] = decoded
    return [Slice(*pair) for pair in zip(stands, rows, strict=True)]


def _place(at: float, moments: Sequence[float]) -> int | None:
    """The moment that a sample is close before."""
    number = bisect_left(moments, at)
    return number if number < len(moments) and moments[number] - at < HEARD_SECONDS else None


def _slice(connection: Connection, moment: float) -> Slice:
    within = and_(samples.c.received_at > moment - HEARD_SECONDS, samples.c.received_at <= moment)
    newest = {row[0]: row for row in connection.execute(select(*_STAND).where(within).order_by(samples.c.received_at)).all()}
    stands = {device: Stand._make(row) for device, row in newest.items()}
    return Slice(stands, _rows(connection, within) if any(stand.answer_tokens for stand in stands.values()) else {})


def _rows(connection: Connection, within: ColumnElement[bool]) -> Mapping[str, Mapping[str, int]]:
    rows: dict[str, dict[str, int]] = {}
    stages: Iterable[Any] = connection.execute(
        _ROWS.join_from(samples, pipeline_samples, _SAME).where(within).order_by(samples.c.received_at)
    )
    for device, _, pipeline, decoded in stages:
        rows.setdefault(device, {})[pipeline] = decoded
    return rows
