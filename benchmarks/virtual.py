"""A day of a large hollow fleet in minutes: registry and telemetry of a coordinator, and its devices, on a clock that jumps.

    python -m benchmarks.virtual --devices 1000 --hours 24

The same agents and the same coordinator's code as ever, in one process, over a network in memory. Devices fail and start again by chance;
the same seed gives the same log, byte for byte.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from device.agent.identity import INSECURE_FLEET, Identity
from device.agent.telemetry import ProcessReading
from fleet.devices.liveness import Liveness
from fleet.devices.registry import Registry
from fleet.store.database import Store
from fleet.telemetry.ingest import Ingest
from fleet.telemetry.records import Registered, TelemetryRecords
from protos.ids import DeviceId, device_id
from protos.net.memory import MemoryNetwork
from protos.v1 import telemetry_pb2
from sim_devices.hollow.fleet import HollowDevice, HollowFleet, HollowPlan
from sim_devices.profiles import load_profile
from sim_devices.virtual_time import run_virtual

HOUR = 3600.0
EPOCH = 1_700_000_000.0  # unix seconds at which every such day begins
PROFILES = ("horizon-journey-5", "jetson-orin-nano-super", "rk3588")


@dataclass(frozen=True)
class Day:
    devices: int
    hours: float
    interval_seconds: float = 60.0
    gateways: int = 4
    seed: int = 1
    outage_hours: float = 48.0  # mean time of a device between outages; 0: none
    outage_seconds: float = 600.0  # mean length of one


@dataclass
class Outcome:
    samples: int = 0
    lost: int = 0  # by the gaps in devices' indexes
    stored: int = 0
    outages: int = 0
    wall_seconds: float = 0.0
    processor_seconds: float = 0.0
    log_digest: str = ""
    idle_joules: float = 0.0  # by the coordinator's own query over the whole time


@dataclass
class Log:
    """Canonical JSON, one event a line; kept as a digest, and written where somebody wants to read it."""

    file: TextIO | None
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def write(self, at_seconds: float, event: str, **facts: object) -> None:
        line = json.dumps({"at_ms": round(at_seconds * 1000), "event": event, **facts}) + "\n"
        self.digest.update(line.encode())
        if self.file:
            self.file.write(line)


def run(day: Day, folder: Path, file: TextIO | None = None) -> Outcome:
    """`folder` takes the store."""
    log = Log(file)
    start, processor = time.perf_counter(), time.process_time()
    outcome = run_virtual(_live(day, folder, log))
    outcome.wall_seconds, outcome.processor_seconds = time.perf_counter() - start, time.process_time() - processor
    outcome.log_digest = log.digest.hexdigest()
    return outcome


async def _live(day: Day, folder: Path, log: Log) -> Outcome:
    clock = asyncio.get_running_loop().time
    outcome = Outcome()
    network = MemoryNetwork()
    # Suspect after three intervals of silence, offline after five. Without beats, which are for those who answer requests.
    rules = Liveness(interval_seconds=day.interval_seconds, beat_seconds=0.0, offline_seconds=5 * day.interval_seconds)
    async with AsyncExitStack() as stack:
        store = stack.enter_context(Store(folder / "state.sqlite"))
        telemetry = TelemetryRecords(store)
        names: dict[str, str] = {}

        def now() -> float:
            return EPOCH + clock()

        def registered(device: str) -> Registered:
            return Registered(names.get(device, device), hollow=True)

        ingest = await stack.enter_async_context(Ingest(telemetry, registered, now=now, batch_seconds=day.interval_seconds))
        take = _Counting(outcome, ingest.add, log, clock)
        registry = await stack.enter_async_context(Registry(None, take, rules=rules, clock=clock, network=network))
        fleets = [await stack.enter_async_context(_fleet(day, number, network, clock)) for number in range(1, day.gateways + 1)]
        for number, fleet in enumerate(fleets, 1):
            for local_name, device in fleet.devices.items():
                names[device.device_id] = f"hollow-{number}-{local_name}"
            registry.found_gateway(fleet.gateway, (fleet.address,), "seed")
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        living = [tasks.create_task(_watch(registry, log, clock))]
        if day.outage_hours:
            for fleet in fleets:
                for device in fleet.devices.values():
                    chance = random.Random(f"{day.seed}/outages/{device.device_id}")
                    living.append(tasks.create_task(_fail_sometimes(day, device, chance, outcome, log, clock)))
        # Half an interval more, so that the last round has come.
        await asyncio.sleep(day.hours * HOUR + day.interval_seconds / 2)
        for task in living:
            task.cancel()
        await ingest.flush()
        costs = telemetry.costs(clock() + 1, "device", now())
        outcome.idle_joules = sum(row.idle_joules or 0.0 for row in costs)
        outcome.stored = _stored(store)
        facts = {"samples": outcome.samples, "lost": outcome.lost, "stored": outcome.stored, "devices": len(costs)}
        log.write(clock(), "end", **facts, samples_digest=take.digest.hexdigest())
    return outcome


def _fleet(day: Day, number: int, network: MemoryNetwork, clock: Callable[[], float]) -> HollowFleet:
    gateway = Identity(device_id(f"{day.seed}/gateway/{number}".encode()), INSECURE_FLEET, None)
    count = day.devices // day.gateways + (number <= day.devices % day.gateways)
    plan = HollowPlan(f"hollow-{number}", count, [load_profile(name) for name in PROFILES])
    boots = random.Random(f"{day.seed}/boots/{number}")
    return HollowFleet(
        plan,
        gateway,
        network=network,
        clock=clock,
        boot_ids=lambda: f"{boots.getrandbits(128):032x}",
        process=lambda: ProcessReading(0, 0.0),  # of all that a device says, its own process is this machine's
    )


class _Counting:
    """Every sample on its way to the store: counted, and part of the log's digest."""

    def __init__(
        self, outcome: Outcome, add: Callable[[telemetry_pb2.TelemetrySample], None], log: Log, clock: Callable[[], float]
    ) -> None:
        self.digest = hashlib.sha256()
        self._outcome = outcome
        self._add = add
        self._log = log
        self._clock = clock
        self._next: dict[str, int] = {}  # by boot: a device's index after its last

    def __call__(self, sample: telemetry_pb2.TelemetrySample) -> None:
        self.digest.update(sample.SerializeToString(deterministic=True))
        expected = self._next.get(sample.boot_id, 0)
        self._outcome.lost += sample.index - expected
        self._next[sample.boot_id] = sample.index + 1
        self._outcome.samples += 1
        self._add(sample)


async def _watch(registry: Registry, log: Log, clock: Callable[[], float]) -> None:
    """Log each change of a device's state as the registry sees it."""
    before: dict[DeviceId, str] = {}
    while True:
        changes = registry.changes
        for record in registry.records():
            if before.get(record.device_id) != record.state:
                before[record.device_id] = record.state
                log.write(clock(), record.state, device=record.name)
        await registry.changed_since(changes)


async def _fail_sometimes(
    day: Day, device: HollowDevice, chance: random.Random, outcome: Outcome, log: Log, clock: Callable[[], float]
) -> None:
    while True:
        await asyncio.sleep(chance.expovariate(1 / (day.outage_hours * HOUR)))
        outcome.outages += 1
        log.write(clock(), "stopped", device=device.device_id)
        await device.stop()
        await asyncio.sleep(chance.expovariate(1 / day.outage_seconds))
        await device.start()
        log.write(clock(), "started", device=device.device_id)


def _stored(store: Store) -> int:
    with store.reading() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM samples").scalar_one())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--interval", type=float, default=60.0, help="seconds between a device's reports")
    parser.add_argument("--gateways", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--outages", type=float, default=48.0, help="mean hours of a device between outages; 0: none")
    parser.add_argument("--log", type=Path, help="write the event log here")
    options = parser.parse_args()
    day = Day(options.devices, options.hours, options.interval, options.gateways, options.seed, options.outages)
    with tempfile.TemporaryDirectory() as folder, options.log.open("w") if options.log else nullcontext() as file:
        outcome = run(day, Path(folder), file)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    virtual = day.hours * HOUR
    print(f"{day.devices:,} devices for {day.hours:g} h, one report each {day.interval_seconds:g} s, seed {day.seed}")
    print(f"wall time         {outcome.wall_seconds:.1f} s ({virtual / outcome.wall_seconds:,.0f} times as fast)")
    print(f"processor time    {outcome.processor_seconds:.1f} s")
    print(f"samples           {outcome.samples:,} received, {outcome.lost:,} lost, {outcome.stored:,} kept after thinning")
    print(f"outages           {outcome.outages:,}")
    print(f"idle energy       {outcome.idle_joules / 3.6e6:.2f} kWh by telemetry")
    print(f"peak memory       {peak_mib:.0f} MiB")
    print(f"log               sha256 {outcome.log_digest}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
