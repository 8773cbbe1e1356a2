"""What a client keeps of its speed while strangers, and clients that do not read, press on the fleet.

python -m benchmarks.under_attack --rounds 5

A device with one thread and a coordinator, TLS between them, each a process; a stream of the model is timed alone and then under each
attack, in turn. The attackers are processes of the same machine, and take a core that on a real network would be theirs: the device has
one thread so that this core is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from zeroconf.asyncio import AsyncZeroconf

from benchmarks.client import Client
from benchmarks.figures import Target, rows
from benchmarks.models import prepare
from benchmarks.product import LocalFleet
from benchmarks.speed import table
from benchmarks.worker import Ask
from device.agent.announce import service_info
from fleet.trust.authority import Authority
from protos.ids import FleetId, device_id

LOOPBACK, STRANGER = "127.0.0.1", "127.0.0.2"
DEPLOYMENT, MODEL = "it", "smollm2-135m"
ALONE, CONNECTIONS, ADVERTS, DEAF = "alone", "2,000 silent connections", "300 forged adverts a second", "12 clients that do not read"
OTHERS = "12 clients that read"
KEEPS = 0.9
TARGETS = (
    Target("decode under 2,000 silent connections ÷ alone", CONNECTIONS, ALONE, KEEPS),
    Target("decode under 300 forged adverts a second ÷ alone", ADVERTS, ALONE, KEEPS),
    Target("decode beside 12 clients that do not read ÷ beside 12 that do", DEAF, OTHERS, KEEPS),
)
SETTLE_SECONDS = 5.0  # after which the readers' buffers are full, and the connections that are too many have been ended
PROMPT = tuple(range(100, 132))


async def hold_connections(ports: Sequence[int], count: int) -> None:
    """For ever: so many connections that say nothing, a new one for each that is ended."""
    held: dict[int, socket.socket] = {}
    while True:
        for n in range(count):
            if n in held and _ended(held[n]):
                held.pop(n).close()
            if n not in held:
                held[n] = socket.socket()
                held[n].setblocking(False)
                held[n].bind((STRANGER, 0))
                held[n].connect_ex((LOOPBACK, ports[n % len(ports)]))
        await asyncio.sleep(1)


def _ended(one: socket.socket) -> bool:
    try:
        return one.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def forge_adverts(fleet: FleetId, per_second: float) -> None:
    """For ever: adverts of devices that are not there."""
    async with AsyncZeroconf(interfaces=[LOOPBACK]) as forger:
        started, n = time.monotonic(), 0
        while True:
            lie = service_info(device_id(os.urandom(16)), fleet, 9, [f"127.0.{n % 200}.9"])
            forger.zeroconf.async_send(forger.zeroconf.generate_service_broadcast(lie, None))
            n += 1
            await asyncio.sleep(max(0.0, started + n / per_second - time.monotonic()))


async def ask(url: str, count: int, reads: bool) -> None:
    """For ever: so many clients that stream long answers, one after the other; or that take nothing of the first."""
    async with asyncio.TaskGroup() as clients:
        for _ in range(count):
            clients.create_task(_ask(url, reads))


async def _ask(url: str, reads: bool) -> None:
    where = urlsplit(url)
    request = {"model": DEPLOYMENT, "prompt": PROMPT, "max_tokens": 900, "stream": True, "ignore_eos": True}
    payload = json.dumps(request).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    while True:
        reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1024)
        writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        if not reads:
            await asyncio.Event().wait()
        while await reader.read(1024):
            pass
        writer.close()


def _run(attack: Callable[..., Coroutine[Any, Any, None]], arguments: Sequence[object]) -> None:
    with suppress(KeyboardInterrupt):
        asyncio.run(attack(*arguments))


@contextmanager
def attacked(attack: Callable[..., Coroutine[Any, Any, None]] | None, *arguments: object) -> Iterator[None]:
    """Meanwhile this runs in a process of its own; None: nothing does."""
    if attack is None:
        yield
        return
    process = get_context("spawn").Process(target=_run, args=(attack, arguments), daemon=True)
    process.start()
    try:
        time.sleep(SETTLE_SECONDS)
        yield
        if not process.is_alive():
            raise SystemExit(f"the attack {attack.__name__} ended by itself")
    finally:
        process.kill()
        process.join()


def measure(fleet: LocalFleet, rounds: int, tokens: int) -> Mapping[str, list[float]]:
    """Tokens per second of one stream, of each round, by what goes on meanwhile."""
    children = {process.name: psutil.Process(process.child.pid) for process in (*fleet.devices.values(), fleet.coordinator)}
    ports = [one.laddr.port for child in children.values() for one in child.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    attacks: dict[str, tuple[Any, ...]] = {
        ALONE: (None,),
        CONNECTIONS: (hold_connections, ports, 2000),
        ADVERTS: (forge_adverts, Authority.open(fleet.home.authority).fleet_id, 300.0),
        OTHERS: (ask, fleet.url, 12, True),
        DEAF: (ask, fleet.url, 12, False),
    }
    client = Client(fleet.url)
    samples: dict[str, list[float]] = {name: [] for name in attacks}
    for number in range(rounds + 1):
        for name in list(attacks)[:: 1 if number % 2 else -1]:
            with attacked(*attacks[name]):
                found = client.measure(Ask("decode", (PROMPT,), tokens, DEPLOYMENT))["tokens_per_second"]
            if number:  # the first is to warm up
                samples[name].append(found)
    return samples


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.under_attack", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=192, help="of the answer that is timed")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "glmfleet-benchmarks")
    options = parser.parse_args(arguments)
    model = prepare(MODEL, options.cache)
    with tempfile.TemporaryDirectory() as folder, LocalFleet(Path(folder), model.artifacts, {"one": 1}) as fleet:
        fleet.deploy(DEPLOYMENT, model.name, ["one"], 1024, 18)
        samples = measure(fleet, options.rounds, options.tokens)
    found = rows(TARGETS, samples)
    print("\n".join(table(found)))
    for name, values in samples.items():
        print(f"{name:32} {' '.join(f'{value:.1f}' for value in values)} tokens/s")
    return 0 if all(row.reached for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
