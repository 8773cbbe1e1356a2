"""What the fleet has cost: samples and finished requests in, sums by device, model, deployment or request out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import BigInteger, Exists, Table, and_, cast, delete, exists, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from fleet.store.database import Store
from fleet.store.tables import devices, pipeline_samples, request_costs, requests, samples
from fleet.telemetry import distributions, slices, sums
from fleet.telemetry.distributions import PercentilesBy
from fleet.telemetry.history import history, moments, step_seconds
from fleet.telemetry.views import CostRow, FinishedRequest, History, Percentiles, Source
from protos.errors import FleetError, InvalidInput, NoSpace, TemporaryError
from protos.v1 import telemetry_pb2 as pb

By = Literal["device", "model", "deployment", "request"]
GROUPINGS: Mapping[str, By] = {"device": "device", "model": "model", "deployment": "deployment", "request": "request"}

# Counters only grow, so the last sample of a window tells all that the window's samples told: thinning changes no sum, only how finely a
# period can be cut. Samples older than the first figure are kept one per window of the second; nothing is kept beyond KEEP_SECONDS. Some
# 2,300 samples of a device are left of 30 days, 350 MiB of 1,000 devices (benchmarks/history.py).
THINNING_SECONDS = ((300.0, 10.0), (3600.0, 60.0), (6 * 3600.0, 300.0), (24 * 3600.0, 900.0), (7 * 24 * 3600.0, 3600.0))
KEEP_SECONDS = 30 * 24 * 3600.0

_SOURCES: Mapping[pb.EnergySource, Source] = {
    pb.ENERGY_SOURCE_UNMETERED: "unmetered",
    pb.ENERGY_SOURCE_MEASURED: "measured",
    pb.ENERGY_SOURCE_MODELLED: "modelled",
    pb.ENERGY_SOURCE_ESTIMATED: "estimated",
}


@dataclass(frozen=True)
class Registered:
    """The name a device bears, and whether it computes nothing."""

    name: str
    hollow: bool = False


@dataclass(frozen=True)
class Received:
    """A sample, when it came by the coordinator's clock (unix seconds), and whose it is."""

    sample: pb.TelemetrySample
    received_at: float
    device: Registered


def source_of(source: pb.EnergySource) -> Source:
    """The word for it; "unmetered" for one that this program does not know."""
    return _SOURCES.get(source, "unmetered")


def may_pass(error: FleetError) -> bool:
    """It is the store's, and what it did not take may be given to it again; not of a record, which would be in the way of all others."""
    return isinstance(error, TemporaryError | NoSpace | InvalidInput)


class TelemetryRecords:
    """Over a store, with its rules: calls block and may come from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Registered] = {}
        self._lock = threading.Lock()
        self._thinned_to: dict[float, float] = {}  # by the age from which on: until when (unix seconds)

    def ingest(self, received: Iterable[Received]) -> None:
        """Keep these samples, in one transaction; those already there (same device, boot and index) are left as they are."""
        batch = list(received)
        if not batch:
            return
        found = {one.sample.device_id: one.device for one in batch}
        with self._lock:
            changed = {device: registered for device, registered in found.items() if self._known.get(device) != registered}
        with self._store.writing() as connection:
            if changed:
                rows = [{"device_id": device, "name": one.name, "hollow": one.hollow} for device, one in changed.items()]
                statement = _insert(devices, connection.dialect.name)
                update = {"name": statement.excluded.name, "hollow": statement.excluded.hollow}
                connection.execute(statement.on_conflict_do_update(index_elements=["device_id"], set_=update), rows)
            connection.execute(_insert(samples, connection.dialect.name).on_conflict_do_nothing(), [_sample_row(one) for one in batch])
            pipelines = [row for one in batch for row in _pipeline_rows(one.sample)]
            if pipelines:
                connection.execute(_insert(pipeline_samples, connection.dialect.name).on_conflict_do_nothing(), pipelines)
        with self._lock:
            self._known |= changed

    def record(self, request_id: str, finished_at: float, ended: FinishedRequest) -> None:
        """Keep what one finished request took; a second record of the same id changes nothing."""
        row = {
            "request_id": request_id,
            "finished_at": finished_at,
            "model": ended.model,
            "deployment": ended.deployment,
            "finish_reason": ended.finish_reason,
            "prompt_tokens": ended.prompt_tokens,
            "completion_tokens": ended.completion_tokens,
            "ttft_seconds": ended.ttft_seconds,
            "tpot_seconds": ended.tpot_seconds,
            "modelled_ttft_seconds": ended.modelled_ttft_seconds,
            "modelled_tpot_seconds": ended.modelled_tpot_seconds,
            "total_seconds": ended.total_seconds,
            "queue_seconds": ended.queue_seconds,
        }
        costs = [
            {
                "request_id": request_id,
                "device_id": cost.device_id,
                "source": cost.source,
                "busy_seconds": cost.busy_seconds,
                "modelled_busy_seconds": cost.modelled_busy_seconds,
                "joules": None if cost.source == "unmetered" else cost.joules,
            }
            for cost in ended.devices
        ]
        names = [{"device_id": cost.device_id, "name": cost.device_name, "hollow": False} for cost in ended.devices]
        with self._store.writing() as connection:
            dialect = connection.dialect.name
            connection.execute(_insert(requests, dialect).on_conflict_do_nothing(), [row])
            if costs:
                connection.execute(_insert(request_costs, dialect).on_conflict_do_nothing(), costs)
                connection.execute(_insert(devices, dialect).on_conflict_do_nothing(), names)

    def costs(self, since_seconds: float, by: By, now: float) -> list[CostRow]:
        """What the last `since_seconds` before `now` (unix seconds) cost, one row per key and source, sorted by key.

        By device, joules, seconds and tokens are the device's own counters (idle time too), with what is not known of them; otherwise they
        are what the finished requests used.
        Figures of different sources are never added: a key with two sources has two rows. `joules_per_token` is busy joules per token of
        the answers. Whatever was heard of after `now` was heard before the coordinator's clock was set back, and counts.
        """
        start = now - since_seconds
        spacing = max((window for older, window in THINNING_SECONDS if since_seconds >= older), default=0.0)
        with self._store.reading() as connection:
            if by == "device":
                return sums.by_device(connection, start, now, spacing)
            return sums.by_request_field(connection, start, by)

    def history(self, since_seconds: float, now: float, key: str = "fleet", device_id: str = "") -> History:
        """How the last `since_seconds` before `now` (unix seconds) went, in at most 500 intervals; `device_id` "": all devices together."""
        with self._store.reading() as connection:
            step = step_seconds(since_seconds, _spacing(since_seconds), 1 if device_id else slices.count(connection))
            at = moments(now - since_seconds, now, step)
            found = slices.of_device(connection, device_id, at) if device_id else slices.of_all(connection, at)
            return history(key, device_id, at, found, slices.hollow(connection))

    def percentiles(self, since_seconds: float, now: float, by: PercentilesBy, wanted: Sequence[float]) -> Percentiles:
        """How the figures of requests were distributed that ended in the last `since_seconds` before `now` (unix seconds), in all and in at
        most 500 intervals. `wanted`: percentiles, 0 to 100."""
        step = step_seconds(since_seconds, _spacing(since_seconds), 1)
        with self._store.reading() as connection:
            return distributions.percentiles(connection, distributions.edges(now - since_seconds, now, step), by, wanted)

    def thin(self, now: float) -> None:
        """Bound the store: see THINNING_SECONDS and KEEP_SECONDS. To be called every minute.

        What belongs to a request or a sample goes with it.
        """
        with self._store.writing() as connection:
            connection.execute(delete(requests).where(requests.c.finished_at < now - KEEP_SECONDS))
            connection.execute(delete(samples).where(samples.c.received_at < now - KEEP_SECONDS))
        distributions.condense(self._store, now, KEEP_SECONDS)
        for older, window in THINNING_SECONDS:
            horizon = now - older
            # What was thinned before is thin already; the window that the last horizon cut in two is looked at again.
            begin = self._thinned_to.get(older, 0.0) // window * window
            place = func.row_number().over(
                partition_by=(samples.c.device_id, samples.c.boot_id, cast(samples.c.received_at / window, BigInteger)),
                order_by=samples.c.sample_index.desc(),
            )
            aged = and_(samples.c.received_at >= begin, samples.c.received_at < horizon)
            ranked = select(*_SAMPLE, place.label("place")).where(aged).subquery()
            surplus = select(ranked.c.device_id, ranked.c.boot_id, ranked.c.sample_index).where(ranked.c.place > 1)
            # A transaction each, so that a large fleet's samples wait less.
            with self._store.writing() as connection:
                connection.execute(delete(samples).where(tuple_(*_SAMPLE).in_(surplus), ~_last_of_a_pipeline()))
            self._thinned_to[older] = horizon


_SAMPLE = (samples.c.device_id, samples.c.boot_id, samples.c.sample_index)


def _last_of_a_pipeline() -> Exists:
    """Whether a sample is the last with a pipeline that is gone, which told its sum there."""
    here, later = pipeline_samples.alias("here"), pipeline_samples.alias("later")
    same = and_(later.c.device_id == here.c.device_id, later.c.boot_id == here.c.boot_id, later.c.pipeline_id == here.c.pipeline_id)
    goes_on = exists().where(same, later.c.sample_index > here.c.sample_index)
    of_sample = and_(
        here.c.device_id == samples.c.device_id, here.c.boot_id == samples.c.boot_id, here.c.sample_index == samples.c.sample_index
    )
    return exists().where(of_sample, ~goes_on)


def _spacing(since_seconds: float) -> float:
    """What is older than a figure is thinned: a period that ends now has nothing of it in it where it reaches no further back."""
    return max((window for older, window in THINNING_SECONDS if since_seconds > older), default=0.0)


def _insert(table: Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """An insert that knows ON CONFLICT: standard in neither dialect, the same words in both."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def _sample_row(received: Received) -> dict[str, Any]:
    sample = received.sample
    metered = sample.energy.source != pb.ENERGY_SOURCE_UNMETERED
    gauges = sample.gauges
    return {
        "device_id": sample.device_id,
        "boot_id": sample.boot_id,
        "sample_index": sample.index,
        "received_at": received.received_at,
        "uptime_seconds": sample.uptime_seconds,
        "source": source_of(sample.energy.source),
        "busy_joules": sample.energy.busy_joules if metered else None,
        "idle_joules": sample.energy.idle_joules if metered else None,
        "power_watts": gauges.power_watts if metered else None,
        "temperature_celsius": gauges.temperature_celsius if gauges.HasField("temperature_celsius") else None,
        "memory_used_bytes": gauges.memory_used_bytes,
        "process_rss_bytes": gauges.process_rss_bytes,
        "process_cpu_seconds": gauges.process_cpu_seconds,
        **_work(sample, metered),
    }


def _work(sample: pb.TelemetrySample, metered: bool) -> dict[str, Any]:
    told, work = sample.HasField("work"), sample.work
    return {
        "prefill_tokens": work.prefill_tokens if told else None,
        "decode_tokens": work.decode_tokens if told else None,
        "answer_tokens": work.answer_tokens if told else None,
        "work_seconds": work.busy_seconds if told else None,
        "modelled_work_seconds": work.modelled_busy_seconds if told else None,
        "work_joules": work.busy_joules if told and metered else None,
    }


def _pipeline_rows(sample: pb.TelemetrySample) -> Iterable[dict[str, Any]]:
    metered = sample.energy.source != pb.ENERGY_SOURCE_UNMETERED
    for one in sample.pipelines:
        yield {
            "device_id": sample.device_id,
            "boot_id": sample.boot_id,
            "sample_index": sample.index,
            "pipeline_id": one.pipeline_id,
            "manifest_digest": one.manifest_digest,
            "prefill_tokens": one.prefill_tokens,
            "decode_tokens": one.decode_tokens,
            "steps": one.steps,
            "busy_seconds": one.busy_seconds,
            "modelled_busy_seconds": one.modelled_busy_seconds,
            "busy_joules": one.busy_joules if metered else None,
            "sent_bytes": one.sent_bytes,
            "open_sequences": one.open_sequences,
        }
