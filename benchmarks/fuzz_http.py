"""Requests made from the HTTP API's own description, good ones and bad ones, against a coordinator that serves a tiny model.

python -m benchmarks.fuzz_http --examples 500        (of the extra `dev`)

None may be answered with an error of the server or one that is not of our shape, or hold up another for a second.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from fleet.api.app import create_app
from tests.support.fake_fleet import deploy, fake_fleet
from tests.support.http_server import serving

SECONDS = 1.0  # that the event loop may stand
PATIENCE_SECONDS = 20.0
LAGS, _LOOK_SECONDS = "lags.txt", 0.1
FAULTS = (500, 501, 502)


@dataclass
class Outcome:
    statuses: Counter[int] = field(default_factory=Counter)
    others_seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def fuzz(url: str, folder: Path, examples: int, start: int) -> dict[str, Outcome]:
    """By operation, so many examples of each kind. Blocks."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found: dict[str, Outcome] = {}
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]
        outcome = found[operation.label] = Outcome()
        before = time.time()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            with suppress(Unsatisfiable, schemathesis.errors.InvalidSchema):  # nothing of it can be wrong
                _try(operation, mode, examples, start, outcome)
        outcome.others_seconds = max((lag for at, lag in _lags(folder) if at >= before), default=0.0)
        if outcome.others_seconds > SECONDS:
            outcome.faults.append(f"{operation.label}: the event loop stood for {outcome.others_seconds:.1f} s")
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


def _lags(folder: Path) -> list[tuple[float, float]]:
    lines = (folder / LAGS).read_text().splitlines() if (folder / LAGS).exists() else []
    return [(float(at), float(lag)) for at, lag in map(str.split, lines)]


async def _watch_the_loop(folder: Path) -> None:
    """By the served process itself: whoever asks it from outside is held up by his own work."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LOOK_SECONDS
        await asyncio.sleep(_LOOK_SECONDS)
        if (lag := loop.time() - due) > _LOOK_SECONDS:
            with (folder / LAGS).open("a") as file:
                file.write(f"{time.time()} {lag}\n")


async def serve(folder: Path) -> None:
    """A coordinator with a deployed model, until the process is ended; says its URL."""
    async with fake_fleet(folder, 2) as fleet, fleet.coordinating() as coordinator:
        await deploy(coordinator, 1)
        async with serving(create_app(coordinator, authenticate=None)) as url:
            print(url, flush=True)
            await _watch_the_loop(folder)


def fuzz_all(folder: Path, examples: int, start: int) -> dict[str, Outcome]:
    """Blocks."""
    command = [sys.executable, "-m", "benchmarks.fuzz_http", "--serve", str(folder)]
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        found = fuzz(process.stdout.readline().strip(), folder, examples, start)
        assert process.poll() is None, (folder / "log.txt").read_text()
        return found
    finally:
        process.kill()
        process.communicate()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz_http", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=500, help="of each kind, good and bad, for each operation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz_all(Path(folder), options.examples, options.seed)
    for name, outcome in found.items():
        statuses = ", ".join(f"{count} {status}" for status, count in outcome.statuses.most_common())
        print(f"{name}: {statuses}; the event loop stood for {outcome.others_seconds:.2f} s at most")
    faults = [fault for outcome in found.values() for fault in outcome.faults]
    for fault in faults[:50]:
        print("FAULT:", fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
