"""Random requests and cancels through the whole path for as long as you like: nothing may leak, stick or stay open.

python -m benchmarks.soak --minutes 30
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from fleet.cli.chaos_run import open_sequences
from fleet.home import Home

CLIENTS = 24  # more than there are slots: some always wait
SLOTS = 16
CONTEXT = 512
SAMPLE_SECONDS = 1.0
# A process that keeps growing shows it over the second half; allocators and caches settle in the first.
GROWTH_LIMIT = 0.05
GROWTH_BYTES = 16 << 20
# In a short run the caches of the slots are still being touched for the first time (about 200 MiB at 135M): only a gross leak shows.
SHORT_MINUTES, SHORT_GROWTH_BYTES = 10.0, 128 << 20


@dataclass
class Tally:
    finished: int = 0
    cancelled: int = 0
    tokens: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


def glmfleet(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "fleet.cli", *arguments]
    done = subprocess.run(command, env={**os.environ, "GLMFLEET_HOME": str(home)}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


async def client(url: str, dice: random.Random, until: float, tally: Tally) -> None:
    """One user who asks again and again, and leaves in mid-answer every third time."""
    system = list(range(100, 100 + dice.choice([0, 20, 60])))
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as http:
        while time.monotonic() < until:
            prompt = [*system, *(dice.randrange(5, 250) for _ in range(dice.randrange(1, 120)))]
            leave_after = dice.randrange(0, 20) if dice.random() < 0.33 else None
            body = {
                "prompt_ids": prompt,
                "max_tokens": dice.randrange(1, 60),
                "temperature": dice.choice([0, 0.8]),
                "seed": dice.randrange(99),
            }
            async with http.stream("POST", "/api/v1/generate", json=body) as answer:
                if answer.status_code == 429:
                    tally.refused += 1
                    await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
                    continue
                if answer.status_code != 200:
                    tally.failures.append(f"{answer.status_code} {(await answer.aread())[:200]!r}")
                    continue
                events, ended = 0, False
                async for line in answer.aiter_lines():
                    events += line.startswith("event: token")
                    ended |= line.startswith("event: done")
                    if line.startswith("event: error"):
                        tally.failures.append("error event")
                        ended = True
                    if leave_after is not None and events > leave_after:
                        break
                tally.tokens += events
                tally.finished += ended
                tally.cancelled += not ended


async def left_open(home: Home) -> int:
    rows = json.loads(glmfleet(home.path, "devices", "--json"))
    return await open_sequences(home, [(row["address"], row["device_id"]) for row in rows])


async def watch(processes: dict[str, psutil.Process], until: float) -> dict[str, list[int]]:
    seen: dict[str, list[int]] = {name: [] for name in processes}
    while time.monotonic() < until:
        for name, process in processes.items():
            seen[name].append(process.memory_info().rss)
        await asyncio.sleep(SAMPLE_SECONDS)
    return seen


def growth(samples: list[int]) -> tuple[float, float]:
    """Median resident bytes of the third and of the last quarter."""
    quarter = max(1, len(samples) // 4)
    return statistics.median(samples[2 * quarter : 3 * quarter]), statistics.median(samples[-quarter:])


async def soak(home: Home, url: str, serve_pid: int, minutes: float, seed: int) -> int:
    pids = {row["name"]: row["pid"] for row in json.loads(glmfleet(home.path, "sim", "status", "--json"))}
    processes = {name: psutil.Process(pid) for name, pid in {**pids, "coordinator": serve_pid}.items()}
    tally, until = Tally(), time.monotonic() + 60 * minutes
    watcher = asyncio.create_task(watch(processes, until))
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(client(url, random.Random(seed * 1000 + number), until, tally))
    deadline = time.monotonic() + 10
    while (left := await left_open(home)) and time.monotonic() < deadline:  # noqa: ASYNC110 (asked over the wire)
        await asyncio.sleep(0.2)
    print(f"{tally.finished} answers, {tally.cancelled} left in mid-answer, {tally.refused} refused for now, {tally.tokens} token events")
    faults = [f"{left} sequences are still open"] if left else []
    faults += [f"{len(tally.failures)} requests failed, the first: {tally.failures[0]}"] if tally.failures else []
    for name, samples in (await watcher).items():
        before, after = growth(samples)
        print(f"{name}: {before / 2**20:.1f} MiB resident in the third quarter, {after / 2**20:.1f} MiB in the last")
        if after - before > (SHORT_GROWTH_BYTES if minutes < SHORT_MINUTES else max(GROWTH_LIMIT * before, GROWTH_BYTES)):
            faults.append(f"{name} grows")
    for fault in faults:
        print("FAULT:", fault)
    return 1 if faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, help="a GLM checkpoint folder (default: smollm2-135m)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="glmfleet-soak-") as folder:
        home = Home.open(Path(folder))
        if options.checkpoint:
            glmfleet(home.path, "model", "import", str(options.checkpoint), "--name", "soak")
        else:
            glmfleet(home.path, "model", "pull", "smollm2-135m", "--name", "soak")
        serving = None
        try:
            glmfleet(home.path, "sim", "up", "--devices", str(options.stages))
            command = [sys.executable, "-m", "fleet.cli", "serve", "--port", "0"]
            serving = subprocess.Popen(
                command, env={**os.environ, "GLMFLEET_HOME": folder}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            deadline = time.monotonic() + 30
            while not (running := home.running_coordinator()):
                if serving.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the coordinator did not start")
                time.sleep(0.1)
            while len(json.loads(glmfleet(home.path, "devices", "--json"))) < options.stages and time.monotonic() < deadline:
                time.sleep(0.2)
            wish = ("--stages", str(options.stages), "--context", str(CONTEXT), "--slots", str(SLOTS))
            glmfleet(home.path, "deploy", "soak", *wish)
            return asyncio.run(soak(home, running.url, serving.pid, options.minutes, options.seed))
        finally:
            if serving:
                serving.terminate()
                serving.wait(20)
            glmfleet(home.path, "sim", "down")


if __name__ == "__main__":
    sys.exit(main())
