"""Requests made from the HTTP API's own description, good ones and bad ones, against a coordinator that serves a tiny model.

python -m benchmarks.fuzz_http --examples 500        (of the extra `dev`)

None may be answered with an error of the server or one that is not of our shape, or hold up another for a second.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from fleet.api.app import create_app
from tests.support.fake_fleet import deploy, fake_fleet
from tests.support.http_server import serving

SECONDS = 1.0  # that /healthz may take meanwhile
PATIENCE_SECONDS = 20.0
FAULTS = (500, 501, 502, 504)


@dataclass
class Outcome:
    statuses: Counter[int] = field(default_factory=Counter)
    others_seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def fuzz(url: str, examples: int, start: int) -> dict[str, Outcome]:
    """By operation, so many examples of each kind. Blocks."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found: dict[str, Outcome] = {}
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]
        outcome = found[operation.label] = Outcome()
        ended = threading.Event()
        beating = threading.Thread(target=_beat, args=(url, outcome, ended))
        beating.start()
        try:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                try:
                    _try(operation, mode, examples, start, outcome)
                except (Unsatisfiable, schemathesis.errors.InvalidSchema):  # nothing of it can be wrong
                    continue
        finally:
            ended.set()
            beating.join()
        if outcome.others_seconds > SECONDS:
            outcome.faults.append(f"{operation.label}: /healthz took {outcome.others_seconds:.1f} s meanwhile")
    return found


def _try(operation: Any, mode: GenerationMode, examples: int, start: int, outcome: Outcome) -> None:
    @seed(start)
    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def each(case: Any) -> None:
        try:
            response = case.call(timeout=PATIENCE_SECONDS)
        except Exception as error:  # of the library that it calls with
            outcome.faults.append(f"{operation.label}: {type(error).__name__} for {case.as_curl_command()[:500]}")
            return
        outcome.statuses[response.status_code] += 1
        if response.status_code in FAULTS or (response.status_code >= 400 and not _is_ours(response)):
            outcome.faults.append(
                f"{operation.label}: {response.status_code} {response.content[:300]!r} for {case.as_curl_command()[:500]}"
            )

    each()


def _is_ours(response: Any) -> bool:
    """One object with an error in it; plain text of HTTP itself only where there was no request to answer."""
    try:
        return "error" in response.json()
    except ValueError:
        return False


def _beat(url: str, outcome: Outcome, ended: threading.Event) -> None:
    with httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_SECONDS) as client:
        while not ended.wait(0.1):
            started = time.monotonic()
            client.get("/healthz")
            outcome.others_seconds = max(outcome.others_seconds, time.monotonic() - started)


async def fuzz_all(folder: Path, examples: int, start: int) -> dict[str, Outcome]:
    async with fake_fleet(folder, 2) as fleet, fleet.coordinating() as coordinator:
        await deploy(coordinator, 1)
        async with serving(create_app(coordinator, authenticate=None)) as url:
            return await asyncio.to_thread(fuzz, url, examples, start)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz_http", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=500, help="of each kind, good and bad, for each operation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(fuzz_all(Path(folder), options.examples, options.seed))
    for name, outcome in found.items():
        statuses = ", ".join(f"{count} {status}" for status, count in outcome.statuses.most_common())
        print(f"{name}: {statuses}; others at most {outcome.others_seconds:.2f} s")
    faults = [fault for outcome in found.values() for fault in outcome.faults]
    for fault in faults[:50]:
        print("FAULT:", fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
