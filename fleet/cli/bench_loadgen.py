"""MLCommons' LoadGen, which decides when queries are sent and whether a run counts, over an endpoint that answers them.

LoadGen is a library of C++ with threads of its own; it is told of each answer by the event loop's.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlperf_loadgen as loadgen

from protos.errors import Internal

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
SCENARIOS = {
    "single-stream": loadgen.TestScenario.SingleStream,
    "multi-stream": loadgen.TestScenario.MultiStream,
    "server": loadgen.TestScenario.Server,
    "offline": loadgen.TestScenario.Offline,
}
NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Rules:
    """Of a run. `least_seconds` and `least_queries` as LoadGen has them: the run lasts until both are met.

    `rate`: queries a second, of `server` the mean of a Poisson process, of `offline` what is expected, which says how many are sent at
    once. `samples`: of `multi-stream`, at a time. `first_token_seconds` and `token_seconds`: what 99 % of a `server`'s answers have to keep
    to. `expected_seconds`: no answer is quicker.
    """

    scenario: Scenario
    least_seconds: float
    least_queries: int
    rate: float = 1.0
    samples: int = 8
    first_token_seconds: float = 2.0
    token_seconds: float = 0.2
    expected_seconds: float = 0.01


@dataclass(frozen=True)
class Verdict:
    """LoadGen's own words: `valid`, what was satisfied, and what it says of early stopping."""

    valid: bool
    satisfied: dict[str, bool]
    early_stopping: tuple[str, ...]


@dataclass(frozen=True)
class Query:
    """`first`, of which only the first call counts, and `complete` (with its tokens) have to be told of each, also of one that failed."""

    index: int
    first: Callable[[], None]
    complete: Callable[[int], None]


async def run(rules: Rules, library: int, answer: Callable[[Query], Coroutine[Any, Any, None]]) -> Verdict:
    """Until LoadGen has ended. `library`: so many different samples there are; `answer` is a task for each query."""
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    def begin(queries: Sequence[Query]) -> None:
        for query in queries:
            task = loop.create_task(answer(query), name=f"query {query.index}")
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def issue(samples: Sequence[Any]) -> None:
        loop.call_soon_threadsafe(begin, [_query(sample.id, sample.index) for sample in samples])

    with tempfile.TemporaryDirectory(prefix="glmfleet-loadgen-") as folder:
        ended: asyncio.Future[None] = loop.create_future()

        def start() -> None:
            _start(rules, library, issue, folder)
            loop.call_soon_threadsafe(ended.set_result, None)

        # Nothing waits for it when the command is interrupted: LoadGen itself cannot be.
        threading.Thread(target=start, name="LoadGen", daemon=True).start()
        await ended
        return verdict((Path(folder) / "mlperf_log_summary.txt").read_text())


def verdict(summary: str) -> Verdict:
    """Of the text that LoadGen writes. Raises Internal where that says nothing."""
    valid: bool | None = None
    satisfied: dict[str, bool] = {}
    early: list[str] = []
    of_early = ""
    for line in summary.partition("Additional Stats")[0].splitlines():
        name, colon, value = (part.strip() for part in line.partition(":"))
        if name == "Result is":
            valid = value == "VALID"
        elif name.endswith(" satisfied") and value != "Skipped":
            satisfied[name.removesuffix(" satisfied")] = value == "Yes"
        elif name.endswith("Early Stopping Result") and colon:
            of_early = name.removesuffix("Early Stopping Result").strip()
            early.append("")
        elif early and (said := line.strip(" *=")):
            early[-1] = f"{early[-1]} {said}" if early[-1] else f"{of_early}: {said}".removeprefix(": ")
    if valid is None:
        raise Internal("LoadGen has written no result")
    return Verdict(valid, satisfied, tuple(early))


def _query(sample: int, index: int) -> Query:
    told: list[bool] = []

    def first() -> None:
        if not told:
            told.append(True)
            loadgen.FirstTokenComplete([loadgen.QuerySampleResponse(sample, 0, 0)])

    def complete(tokens: int) -> None:
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample, 0, 0, tokens)])

    return Query(index, first, complete)


def _start(rules: Rules, library: int, issue: Callable[[Sequence[Any]], None], folder: str) -> None:
    settings = loadgen.TestSettings()
    settings.scenario = SCENARIOS[rules.scenario]
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1000 * rules.least_seconds)
    settings.min_query_count = rules.least_queries
    settings.use_token_latencies = True
    settings.server_target_qps = rules.rate
    settings.ttft_latency = round(rules.first_token_seconds * NANOSECONDS)
    settings.tpot_latency = round(rules.token_seconds * NANOSECONDS)
    # How many queries it makes beforehand: with too few a run would end before its time.
    settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = round(rules.expected_seconds * NANOSECONDS)
    settings.offline_expected_qps = rules.rate
    settings.multi_stream_samples_per_query = rules.samples
    output = loadgen.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    log = loadgen.LogSettings()
    log.log_output = output
    log.enable_trace = False
    system = loadgen.ConstructSUT(issue, lambda: None)
    samples = loadgen.ConstructQSL(library, library, lambda _: None, lambda _: None)
    try:
        loadgen.StartTestWithLogSettings(system, samples, settings, log)
    finally:
        loadgen.DestroyQSL(samples)
        loadgen.DestroySUT(system)
