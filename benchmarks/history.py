"""How long a history of the fleet takes out of a store that is as full as a day and more of devices makes it.

    python -m benchmarks.history --devices 1000

The store holds what thinning leaves of DAYS (fleet.telemetry.records.THINNING_SECONDS): each second of the last minutes, each hour of
the last weeks. Times are the median of several queries, of the wall and of this process' CPU; that of the first, which finds nothing in
memory, is beside it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from fleet.store.database import Store
from fleet.store.tables import devices as device_table
from fleet.store.tables import pipeline_samples, samples
from fleet.telemetry.records import THINNING_SECONDS, TelemetryRecords

PERIODS = {"10m": 600.0, "1h": 3600.0, "24h": 86400.0}
BATCH = 100_000
ANSWERING = 10


def ages(days: float) -> Iterator[tuple[float, float]]:
    """Of the samples of one device, oldest first, each with the window of which it was left: seconds."""
    older, windows = zip(*THINNING_SECONDS, strict=True)
    bounds = [0.0, *(min(age, days * 86400.0) for age in older), days * 86400.0]
    for (end, begin), step in reversed(list(zip(pairwise(bounds), [1.0, *windows], strict=True))):
        yield from ((begin - step * number, step) for number in range(max(0, round((begin - end) / step))))


def rows(devices: int, days: float, now: float) -> Iterator[dict[str, Any]]:
    """In the order in which they came; counters of 4 W, a half of it busy, and in one device of ANSWERING ten tokens a second."""
    for index, (age, step) in enumerate(ages(days)):
        at = (now - age) // step * step - 0.3  # a moment before its window's end: the last that came there
        uptime = 1e7 - age
        for device in range(devices):
            yield {
                "device_id": f"device-{device}",
                "boot_id": "boot",
                "sample_index": index,
                "received_at": at,
                "uptime_seconds": uptime,
                "source": "modelled",
                "busy_joules": 2 * uptime,
                "idle_joules": 2 * uptime,
                "power_watts": 4.0,
                "temperature_celsius": 50.0,
                "memory_used_bytes": 1 << 30,
                "process_rss_bytes": 1 << 27,
                "process_cpu_seconds": uptime / 10,
                "prefill_tokens": int(uptime),
                "decode_tokens": tokens(device, uptime),
                "answer_tokens": tokens(device, uptime),
                "work_seconds": uptime / 2,
                "modelled_work_seconds": uptime / 2,
                "work_joules": 2 * uptime,
            }


def tokens(device: int, uptime: float) -> int:
    return 0 if device % ANSWERING else int(10 * uptime)


def stages(batch: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each sample of a device that answers."""
    fixed = {"manifest_digest": "x", "prefill_tokens": 0, "steps": 0, "busy_seconds": 0.0, "modelled_busy_seconds": 0.0}
    rest = {"busy_joules": None, "sent_bytes": 0, "open_sequences": 1}
    keys = ("device_id", "boot_id", "sample_index", "decode_tokens")
    told = [row for row in batch if row["answer_tokens"]]
    return [{**{key: row[key] for key in keys}, **fixed, **rest, "pipeline_id": f"ring-{row['device_id']}"} for row in told]


def fill(store: Store, devices: int, days: float, now: float) -> int:
    with store.writing() as connection:
        connection.execute(
            insert(device_table),
            [{"device_id": f"device-{one}", "name": f"d{one}", "hollow": bool(one % ANSWERING)} for one in range(devices)],
        )
    written, batch = 0, []
    for row in rows(devices, days, now):
        batch.append(row)
        if len(batch) == BATCH:
            written += _write(store, batch)
    return written + _write(store, batch)


def _write(store: Store, batch: list[dict[str, Any]]) -> int:
    count = len(batch)
    if batch:
        with store.writing() as connection:
            connection.execute(insert(samples), batch)
            connection.execute(insert(pipeline_samples), stages(batch))
        batch.clear()
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--days", type=float, default=1.0)
    parser.add_argument("--queries", type=int, default=5, help="of each kind")
    options = parser.parse_args()
    now = time.time()
    with tempfile.TemporaryDirectory(prefix="glmfleet-history-") as folder:
        file = Path(folder) / "state.sqlite"
        with Store(file) as store:
            written = fill(store, options.devices, options.days, now)
            print(f"{options.devices:,} devices, {written:,} samples, {file.stat().st_size / 2**20:,.0f} MiB\n")
        print("| period | of | intervals | first ms | median ms | CPU ms |")
        print("|---|---|---|---|---|---|")
        for period, seconds in PERIODS.items():
            for of, arguments in (("all devices", ()), ("one device", ("one", "device-0"))):
                with Store(file) as store:
                    records, took, cpu = TelemetryRecords(store), [], []
                    for _ in range(options.queries):
                        began, used = time.perf_counter(), time.process_time()
                        found = records.history(seconds, now, *arguments)
                        took.append(1000 * (time.perf_counter() - began))
                        cpu.append(1000 * (time.process_time() - used))
                median, of_cpu = statistics.median(took), statistics.median(cpu)
                print(f"| {period} | {of} | {len(found.times)} | {took[0]:.0f} | {median:.0f} | {of_cpu:.0f} |")


if __name__ == "__main__":
    main()
