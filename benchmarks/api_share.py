"""What the API adds to each token while many clients stream: from the moment a head tells it to that at which its client has read it.

    python -m benchmarks.api_share --minutes 5

Three processes: a head that computes nothing and tells tokens at a pace (benchmarks/paced_head.py), `glmfleet serve`, and clients that
stream OpenAI completions over HTTP. The share has everything in between: gRPC with TLS, the coordinator, HTTP, and the clients' own
waking up. Then some clients stop reading, and the others' speed is compared with before. Clocks are one machine's monotonic clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from benchmarks.product import serve
from benchmarks.worker import ROOT
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from tests.support.checkpoints import TinyGlm
from tests.support.members import TestFleet
from tests.support.ring import tiny_model

RESULTS = Path(__file__).parent / "results" / "api-share.json"
TOKENS, LONG_TOKENS = 500, 2000  # of an answer, in the mean; of one that is not read
APART_SECONDS = 0.05  # two clients begin, and their answers are of different lengths: people do not ask all at once
SETTLE_SECONDS = 6.0  # in which all have begun
WANTED_SECONDS, WANTED_SPEED = 0.005, 0.9


@dataclass
class Client:
    """`lines` as they came, with their moments, by the ids of the prompt."""

    number: int
    lines: dict[str, list[tuple[float, bytes]]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    async def ask_repeatedly(self, host: str, port: int, until: float, round_: int) -> None:
        asked, tokens = 0, TOKENS // 2 + self.number * TOKENS // 64
        await asyncio.sleep(APART_SECONDS * self.number)
        while time.perf_counter() < until:
            ids = [5 + self.number, 5 + asked % 200, 5 + asked // 200, 5 + round_]
            asked += 1
            try:
                await self._ask(host, port, ids, tokens, until)
            except OSError as error:
                self.errors.append(type(error).__name__)

    async def _ask(self, host: str, port: int, ids: Sequence[int], tokens: int, until: float) -> None:
        lines = self.lines[" ".join(map(str, ids))] = []
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(_request(host, ids, tokens))
            status = await reader.readline()
            if b" 200 " not in status:
                self.errors.append(status.decode().strip())
                return
            async for line in reader:
                if line.startswith(b"data: {"):
                    lines.append((time.perf_counter(), line))
                    if time.perf_counter() > until:
                        return
        finally:
            writer.close()


async def stop_reading(host: str, port: int, number: int, until: float) -> None:
    """A client that reads the beginning, and nothing more while its connection stands."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await loop.sock_connect(connection, (host, port))
        await loop.sock_sendall(connection, _request(host, [5 + number, 250, 250, 250], LONG_TOKENS))
        await loop.sock_recv(connection, 100)
        await asyncio.sleep(max(0.0, until - time.perf_counter()))


def _request(host: str, ids: Sequence[int], tokens: int) -> bytes:
    body = json.dumps({"model": "tiny", "prompt": list(ids), "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def tokens_of(lines: Sequence[tuple[float, bytes]]) -> list[float]:
    """When each token was read, each of which is a character. Raises ValueError for an error in the stream."""
    moments: list[float] = []
    for at, line in lines:
        chunk: dict[str, Any] = json.loads(line[6:])
        if "error" in chunk:
            raise ValueError(str(chunk["error"]))
        moments += [at] * sum(len(choice.get("text") or "") for choice in chunk["choices"])
    return moments


@dataclass(frozen=True)
class Figures:
    """Of one round. Seconds; `tokens_per_second` of each client that read."""

    tokens: int
    shares: Sequence[float]
    tokens_per_second: Sequence[float]
    errors: Sequence[str]
    coordinator_cpu: float  # cores


async def one_round(url: str, count: int, slow: int, seconds: float, round_: int) -> tuple[list[Client], float, float]:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    begun = time.perf_counter()
    until = begun + SETTLE_SECONDS + seconds
    clients = [Client(number) for number in range(count - slow)]
    async with asyncio.TaskGroup() as tasks:
        for number in range(count - slow, count):
            tasks.create_task(stop_reading(host, port, number, until))
        for client in clients:
            tasks.create_task(client.ask_repeatedly(host, port, until, round_))
    return clients, begun + SETTLE_SECONDS, until


def figures(clients: Sequence[Client], told: dict[str, list[float]], begin: float, end: float, cpu: float) -> Figures:
    shares: list[float] = []
    speeds, errors, tokens = [], [], 0
    for client in clients:
        errors += client.errors
        mine = 0
        for prompt, lines in client.lines.items():
            try:
                read = tokens_of(lines)
            except ValueError as error:
                errors.append(str(error))
                continue
            within = [(at, sent) for at, sent in zip(read, told.get(prompt, ()), strict=False) if begin <= at < end]
            shares += [at - sent for at, sent in within]
            mine += len(within)
        tokens += mine
        speeds.append(mine / (end - begin))
    return Figures(tokens, shares, speeds, errors, cpu / (end - begin))


@contextmanager
def head(folder: Path, groups: int, pace: float) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.paced_head", str(folder), "--groups", str(groups), "--tokens-per-second", str(pace)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="glmfleet-share-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        home = Home.open(folder)
        tiny_model(home.path, TinyGlm(layers=1, max_positions=4096))
        TestFleet.open(home.path)
        process = stack.enter_context(head(home.path, options.groups, options.tokens_per_second))
        assert process.stdin
        assert process.stdout
        address = json.loads(process.stdout.readline())["address"]
        client = stack.enter_context(serve(home, 1, [address]))
        for _ in client.deploy(PlanRequest("tiny", stages=1, context=2048, slots=2 * options.clients), "tiny"):
            pass
        running = home.running_coordinator()
        assert running is not None
        coordinator = psutil.Process(running.pid)
        rounds = []
        for number, (slow, seconds) in enumerate(((0, 60 * options.minutes), (options.slow, 60 * options.slow_minutes))):
            before = sum(coordinator.cpu_times()[:2])
            asked = asyncio.run(one_round(running.url, options.clients, slow, seconds, number))
            rounds.append((*asked, sum(coordinator.cpu_times()[:2]) - before))
        process.stdin.close()
        heard = json.loads(process.stdout.readline())
    calm, troubled = (figures(clients, heard["told"], begin, end, cpu) for clients, begin, end, cpu in rounds)
    shares = {f"p{one:g}_ms": 1000 * float(np.percentile(calm.shares, one)) for one in (50, 90, 99, 99.9)}
    return {
        "clients": options.clients,
        "tokens_per_second_each": options.tokens_per_second,
        "groups": options.groups,
        "minutes": options.minutes,
        "tokens": calm.tokens,
        "share": shares,
        "errors": len(calm.errors) + len(troubled.errors),
        "error_names": sorted(set(calm.errors) | set(troubled.errors)),
        "coordinator_cores": calm.coordinator_cpu,
        "coordinator_cpu_us_per_token": 1e6 * calm.coordinator_cpu / max(sum(calm.tokens_per_second), 1e-9),
        "load": os.getloadavg()[1],  # of this machine, in the mean of the last five minutes
        "slow_readers": options.slow,
        "slow_readers_waited_for": heard["pauses"],
        "slowest_of_the_others": min(troubled.tokens_per_second) / statistics.median(calm.tokens_per_second),
        "others_share": {"p99_ms": 1000 * float(np.percentile(troubled.shares, 99))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--tokens-per-second", type=float, default=20.0, help="of each client")
    parser.add_argument("--groups", type=int, default=4, help="rings whose rounds are told at once")
    parser.add_argument("--slow", type=int, default=8, help="clients that stop reading, afterwards")
    parser.add_argument("--slow-minutes", type=float, default=1.0)
    found = measure(parser.parse_args())
    text = json.dumps(found, indent=2)
    print(text)
    RESULTS.write_text(text + "\n")
    kept = found["share"]["p99_ms"] <= 1000 * WANTED_SECONDS and found["slowest_of_the_others"] >= WANTED_SPEED and not found["errors"]
    sys.exit(not kept)


if __name__ == "__main__":
    main()
