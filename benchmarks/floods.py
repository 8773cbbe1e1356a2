"""What a hostile network costs a real fleet on this machine: floods of silent connections, and of forged mDNS adverts.

python -m benchmarks.floods connections --count 24000
python -m benchmarks.floods adverts --count 20000
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from zeroconf.asyncio import AsyncZeroconf

from device.agent.announce import service_info
from fleet.cli.client import connect
from fleet.home import Home
from fleet.trust.authority import Authority
from protos.enrolment import ENROLLABLE
from protos.errors import FleetError
from protos.ids import FleetId, device_id

LOOPBACK = "127.0.0.1"
STRANGER = "127.0.0.2"  # all of 127.0.0.0/8 is this machine: a source of its own
HOSTS = 200  # that forged adverts name
ENOUGH_SECONDS = 120.0


@dataclass
class Watched:
    """One process of ours while it is attacked."""

    process: psutil.Process
    log: Path
    rss: list[int] = field(default_factory=list)
    cpu_before: float = 0.0

    def begin(self) -> None:
        self.rss = [self.process.memory_info().rss]
        self.cpu_before = self._cpu()

    def look(self) -> None:
        self.rss.append(self.process.memory_info().rss)

    def told(self, name: str, seconds: float) -> None:
        cpu = (self._cpu() - self.cpu_before) / seconds
        figures = f"{self.rss[0] >> 20} MiB before, {max(self.rss) >> 20} at most, {self.process.memory_info().rss >> 20} now"
        print(f"{name}: {figures}; {cpu:.2f} cores; {self.process.num_fds()} descriptors; {self.log.stat().st_size} bytes of log")

    def _cpu(self) -> float:
        return sum(self.process.cpu_times()[:2])


@contextmanager
def running(folder: Path, *command: str, limit: int | None = None) -> Iterator[Watched]:
    """A Python module as a process of its own, with its stderr in a file; `limit` of its descriptors."""
    log = folder / f"{command[0]}-{len(list(folder.glob('*.log')))}.log"
    limits = (limit, limit) if limit is not None else resource.getrlimit(resource.RLIMIT_NOFILE)
    with log.open("ab") as errors:
        process = subprocess.Popen(
            ["prlimit", f"--nofile={limits[0]}:{limits[1]}", sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=errors
        )
    try:
        yield Watched(psutil.Process(process.pid), log)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def state_of(home: Home, name: str) -> str:
    with suppress(FleetError), connect(home) as coordinator:
        return next((one.state for one in coordinator.devices() if one.name == name), "unknown")
    return "no coordinator"


async def until(home: Home, name: str, state: str = "online") -> float:
    """Seconds until the device is in this state; no more than ENOUGH_SECONDS."""
    return await _until(lambda: state_of(home, name) == state)


async def _until(true: Callable[[], bool]) -> float:
    started = time.monotonic()
    while time.monotonic() - started < ENOUGH_SECONDS:
        if await asyncio.to_thread(true):
            break
        await asyncio.sleep(0.1)
    return time.monotonic() - started


def device(home: Home, name: str) -> tuple[str, ...]:
    folder = home.path / name
    Authority.open(home.authority).issue_folder(folder, "device", name)
    return ("sim_devices", "--state", str(folder), "--name", name, "--profile", "raspberry-pi-5")


async def flood_with_connections(port: int, count: int, seconds: float, watched: Watched) -> int:
    """Keep `count` connections open that say nothing, by opening another for each that is ended; returns how many were opened."""
    held: dict[int, socket.socket] = {}
    opened, ends = 0, time.monotonic() + seconds
    while time.monotonic() < ends:
        for n in range(count):
            if n in held:
                try:
                    if held[n].recv(1, socket.MSG_PEEK) == b"":
                        held.pop(n).close()
                except BlockingIOError:
                    continue
                except OSError:
                    held.pop(n).close()
            if n not in held:
                held[n] = socket.socket()
                held[n].setblocking(False)
                held[n].bind((STRANGER, 0))
                held[n].connect_ex((LOOPBACK, port))
                opened += 1
            if n % 200 == 0:
                await asyncio.sleep(0)
        watched.look()
        await asyncio.sleep(0.05)
    for one in held.values():
        one.close()
    return opened


async def connections(count: int, seconds: float, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    count = min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 500)
    with tempfile.TemporaryDirectory() as temporary:
        home = Home.open(Path(temporary))
        with running(home.path, *device(home, "board"), limit=limit) as board:
            port = await _port(board.process)
            serve = ("fleet.cli", "--home", str(home.path), "serve", "--port", "0", "--interface", LOOPBACK, "--seed", f"{LOOPBACK}:{port}")
            with running(home.path, *serve):
                await until(home, "board")
                board.begin()
                away: list[str] = []

                async def watch() -> None:
                    while True:
                        if (state := await asyncio.to_thread(state_of, home, "board")) != "online":
                            away.append(state)
                        await asyncio.sleep(0.5)

                watching = asyncio.create_task(watch())
                opened = await flood_with_connections(port, count, seconds, board)
                watching.cancel()
                board.told(f"{count} silent connections at once, {opened} opened in {seconds:.0f} s, at a device with {limit}", seconds)
                print(
                    f"it was not online at {len(away)} of {2 * seconds:.0f} looks; online {await until(home, 'board'):.1f} s after the end"
                )


async def _port(process: psutil.Process) -> int:
    """Where it listens, once it does."""

    def listening() -> list[int]:
        there = process.net_connections("tcp4") + process.net_connections("tcp6")
        return [one.laddr.port for one in there if one.status == psutil.CONN_LISTEN]

    await _until(lambda: bool(listening()))
    return listening()[0]


async def adverts(count: int, per_second: float) -> None:
    """Forged adverts, half of a device of the fleet, half of a board that asks to join, while a new device and a new board come."""
    dialled = 0

    def took(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dialled
        dialled += 1
        asyncio.get_running_loop().call_later(10, writer.close)  # a tarpit

    server = await asyncio.start_server(took, "0.0.0.0", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as temporary:
        home = Home.open(Path(temporary))
        fleet = Authority.open(home.authority).fleet_id
        serve = ("fleet.cli", "--home", str(home.path), "serve", "--port", "0", "--interface", LOOPBACK)
        with running(home.path, *device(home, "old")), running(home.path, *serve) as coordinator:
            await until(home, "old")
            coordinator.begin()
            started = time.monotonic()
            async with AsyncZeroconf(interfaces=[LOOPBACK]) as forger:
                flood = asyncio.create_task(_forge(forger, fleet, port, count, per_second, coordinator))
                await asyncio.sleep(count / per_second / 4)
                with running(home.path, *device(home, "new")), running(home.path, *_board(home)):
                    waits = await asyncio.gather(until(home, "new"), _until_pending(home))
                    print(f"in the flood a new device was online after {waits[0]:.1f} s, a new board seen after {waits[1]:.1f} s")
                    await flood
                    seconds = time.monotonic() - started
                    with connect(home) as asked:
                        listed, old = len(asked.devices()), state_of(home, "old")
                        problems = asked.discovery().problems
                    print(f"{count} adverts in {seconds:.0f} s: {dialled} strangers dialled; {listed} devices listed; the old one is {old}")
                    print("\n".join(problems))
                    coordinator.told("coordinator", seconds)
    server.close()


async def _forge(forger: AsyncZeroconf, fleet: FleetId, port: int, count: int, per_second: float, watched: Watched) -> None:
    started = time.monotonic()
    for n in range(count):
        host = f"127.0.{n % HOSTS}.9"
        lie = service_info(device_id(os.urandom(16)), fleet if n % 2 else ENROLLABLE, port, [host])
        forger.zeroconf.async_send(forger.zeroconf.generate_service_broadcast(lie, None))
        if n % 20 == 0:
            watched.look()
            await asyncio.sleep(max(0.0, started + n / per_second - time.monotonic()))


def _board(home: Home) -> tuple[str, ...]:
    return ("device", "--state", str(home.path / "board"), "--name", "board", "--host", LOOPBACK, "--port", "0", "--interface", LOOPBACK)


async def _until_pending(home: Home) -> float:
    def pending() -> bool:
        with connect(home) as coordinator:
            return any(one.name == "board" for one in coordinator.enrolments())

    return await _until(pending)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floods", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("connections")
    one.add_argument("--count", type=int, default=2000)
    one.add_argument("--seconds", type=float, default=20.0)
    one.add_argument("--descriptors", type=int, default=1024, help="that the device may have (default: %(default)s)")
    other = commands.add_parser("adverts")
    other.add_argument("--count", type=int, default=20_000)
    other.add_argument("--per-second", type=float, default=300.0)
    options = parser.parse_args()
    if options.what == "connections":
        asyncio.run(connections(options.count, options.seconds, options.descriptors))
    else:
        asyncio.run(adverts(options.count, options.per_second))


if __name__ == "__main__":
    main()
