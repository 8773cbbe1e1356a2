"""Whether the joules of requests and of idleness are those that devices count, over many requests.

python -m benchmarks.energy --requests 10000      (of the home that GLMFLEET_HOME names)

Two stages on two simulated boards, each a process, and a coordinator. Clients send prompts and take answers of random length, and leave one
in twenty in the middle. Then the joules of all requests, as telemetry tells them by request, are compared with the busy joules that the
devices' own counters grew by, and the whole counters with what was busy and what was idle.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

from benchmarks.boards import deploy, throwaway_boards
from benchmarks.product import serve
from fleet.answering.views import GenerateRequest
from fleet.cli.client import CoordinatorClient, connect
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from sim_devices.local_fleet import DeviceSpec

BOARDS = ("raspberry-pi-5", "rk3588")
ALLOWED = 0.01
LEAVES = 0.05  # of the clients, in the middle of an answer
SETTLE_SECONDS = 3.0  # for the last samples to come


@dataclass(frozen=True)
class Sums:
    """Joules of all devices, or of all requests."""

    busy: float
    idle: float = 0.0
    rows: int = 0


def ask(home: Home, chance: random.Random, count: int) -> int:
    """So many requests, one after the other; returns how many were left in the middle."""
    left = 0
    with connect(home) as client:
        for _ in range(count):
            prompt = tuple(chance.randrange(100, 1000) for _ in range(chance.randint(2, 24)))
            request = GenerateRequest(prompt_ids=prompt, max_tokens=chance.randint(1, 8), ignore_eos=True)
            leaves = chance.random() < LEAVES
            with closing(client.generate(request)) as parts:
                for _ in parts:
                    if leaves:
                        left += 1
                        break
    return left


def sums(client: CoordinatorClient, since_seconds: float, by: str) -> Sums:
    """Raises SystemExit where something was not metered."""
    found = client.telemetry(since_seconds, by)
    if any(row.busy_joules is None or row.partial for row in found):
        raise SystemExit(f"by {by}, {sum(row.busy_joules is None or row.partial for row in found)} rows are not whole")
    return Sums(sum(row.busy_joules or 0.0 for row in found), sum(row.idle_joules or 0.0 for row in found), len(found))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with throwaway_boards() as (home, boards), ExitStack() as stack:
        boards.up([DeviceSpec(profile) for profile in BOARDS])
        client = stack.enter_context(serve(home, len(BOARDS)))
        deploy(client, PlanRequest(options.model, stages=len(BOARDS), context=64, slots=options.clients))
        time.sleep(SETTLE_SECONDS)
        began, before = time.monotonic(), sums(client, 3600, "device")
        share = -(-options.requests // options.clients)
        with ThreadPoolExecutor(options.clients) as pool:
            works = [pool.submit(ask, home, random.Random(options.seed * 1000 + n), share) for n in range(options.clients)]  # nosec B311
            left = sum(work.result() for work in works)
        time.sleep(SETTLE_SECONDS)
        seconds = time.monotonic() - began
        after, requests = sums(client, 3600, "device"), sums(client, 3600, "request")
    busy = after.busy - before.busy
    print(f"{requests.rows} requests, {left} of them left in the middle, in {seconds:.0f} s")
    print(f"devices' counters: {busy:.1f} J busy, {after.idle - before.idle:.1f} J idle")
    print(f"requests: {requests.busy:.1f} J; requests ÷ busy: {requests.busy / busy:.4f} (1 ± {ALLOWED})")
    return 0 if abs(requests.busy / busy - 1) <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
