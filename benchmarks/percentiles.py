"""How long percentiles of requests take out of a store with a month of them, how large it is, and how close they are.

python -m benchmarks.percentiles --days 30 --per-minute 20
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import func, insert, select

from fleet.store.database import Store
from fleet.store.tables import request_costs, request_sketches, requests
from fleet.telemetry.records import KEEP_SECONDS, TelemetryRecords

PERIODS = {"10m": 600.0, "1h": 3600.0, "24h": 86400.0, "30d": KEEP_SECONDS - 3600}
PERCENTS = (50, 90, 99)
DEPLOYMENTS = 4
BATCH = 20_000


def rows(days: float, per_minute: float, now: float, dice: random.Random) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Requests in the order of their ends, each with what it cost."""
    count = round(days * 1440 * per_minute)
    for number in range(count):
        ttft, tokens = dice.lognormvariate(-1.5, 0.8), dice.randrange(1, 200)
        tpot = dice.lognormvariate(-4.5, 0.3) if tokens > 1 else None
        at = now - days * 86400 * (1 - number / count)
        total = ttft + (tokens - 1) * (tpot or 0.0)
        times = {"queue_seconds": ttft / 4, "ttft_seconds": ttft, "tpot_seconds": tpot, "total_seconds": total}
        modelled = {"modelled_ttft_seconds": None, "modelled_tpot_seconds": None}
        what = {"model": "m", "deployment": f"d{number % DEPLOYMENTS}", "finish_reason": "stop", "prompt_tokens": 20}
        name = {"request_id": f"{number:032x}"}
        cost = {"device_id": "x", "source": "measured", "busy_seconds": total, "joules": tokens * dice.lognormvariate(-1, 0.2)}
        yield {**name, **what, **times, **modelled, "finished_at": at, "completion_tokens": tokens}, {**name, **cost}


def fill(store: Store, days: float, per_minute: float, now: float) -> list[float]:
    """The seconds to the first token of each."""
    batch, seen = [], []
    for each in rows(days, per_minute, now, random.Random(1)):
        batch.append(each)
        seen.append(each[0]["ttft_seconds"])
        if len(batch) == BATCH:
            _write(store, batch)
    _write(store, batch)
    return seen


def _write(store: Store, batch: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    if batch:
        with store.writing() as connection:
            connection.execute(insert(requests), [request for request, _ in batch])
            connection.execute(insert(request_costs), [cost for _, cost in batch])
        batch.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=30.0)
    parser.add_argument("--per-minute", type=float, default=20.0, help="requests")
    options = parser.parse_args()
    now = time.time()
    with tempfile.TemporaryDirectory(prefix="glmfleet-percentiles-") as folder, Store(Path(folder) / "state.sqlite") as store:
        seen = fill(store, options.days, options.per_minute, now)
        telemetry = TelemetryRecords(store)
        used = time.process_time()
        telemetry.thin(now)
        condensing = time.process_time() - used
        with store.reading() as connection:
            size = func.sum(func.length(request_sketches.c.sketch))
            count, packed = connection.execute(select(func.count(), size).select_from(request_sketches)).one()
        print(f"{len(seen):,} requests; {count:,} sketches, {packed / 2**20:.1f} MiB, made in {condensing:.1f} s of CPU\n")
        print("| period | intervals | median ms | CPU ms |")
        print("|---|---|---|---|")
        for period, seconds in PERIODS.items():
            took, cpu = [], []
            for _ in range(5):
                began, used = time.perf_counter(), time.process_time()
                found = telemetry.percentiles(seconds, now, "model", PERCENTS)
                took.append(1000 * (time.perf_counter() - began))
                cpu.append(1000 * (time.process_time() - used))
            print(f"| {period} | {len(found.times)} | {statistics.median(took):.0f} | {statistics.median(cpu):.0f} |")
        (told,) = [one for one in found.series if one.figure == "ttft_seconds"]
        values = np.array(seen[len(seen) - told.requests :])
        for percent, value in zip(PERCENTS, told.whole, strict=True):
            assert value is not None
            print(f"p{percent}: off by {100 * abs(float((values <= value).mean()) - percent / 100):.2f} % of the ranks")


if __name__ == "__main__":
    main()
