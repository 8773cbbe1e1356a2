"""A coordinator and a hollow fleet as processes of their own: how long until all are online, and what they then take.

    python -m benchmarks.hollow --devices 1000

`glmfleet serve` first, then `glmfleet sim up --hollow N`, as a user would; mDNS and TLS included. Figures are of the processes' own
counters; samples are those in the coordinator's store, gaps in a device's indexes are losses.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.coordinator import serving
from fleet.cli.client import connect
from fleet.home import Home
from protos.errors import FleetError

READY_SECONDS = 300.0


@dataclass(frozen=True)
class Result:
    devices: int
    ready_seconds: float  # from starting the devices until the coordinator has all of them online
    seconds: float  # of the measurement
    samples: int  # received in it
    lost: int
    coordinator_cores: float
    gateway_cores: float
    coordinator_rss_mib: float
    gateway_rss_mib: float
    devices_seconds: float  # GET /api/v1/devices, all of them
    online: int  # at the end

    @property
    def hertz(self) -> float:
        """Samples of each device a second."""
        return self.samples / self.seconds / self.devices


def measure(devices: int, seconds: float) -> Result:
    with tempfile.TemporaryDirectory(prefix="glmfleet-hollow-") as folder:
        home = Home.open(Path(folder))
        with serving(home):
            start = time.perf_counter()
            _glmfleet(home, "sim", "up", "--hollow", str(devices))
            try:
                _until_online(home, devices, start + READY_SECONDS)
                return _run(home, devices, seconds, time.perf_counter() - start)
            finally:
                _glmfleet(home, "sim", "down")


def _run(home: Home, devices: int, seconds: float, ready_seconds: float) -> Result:
    running = home.running_coordinator()
    assert running is not None
    coordinator = psutil.Process(running.pid)
    gateway = psutil.Process(json.loads((home.sim / "hollow-1" / "device.json").read_text())["pid"])
    time.sleep(2.0)  # what was written while they came up
    before, began, since = (_cpu(coordinator), _cpu(gateway)), time.perf_counter(), time.time()
    time.sleep(seconds)
    after, took, until = (_cpu(coordinator), _cpu(gateway)), time.perf_counter() - began, time.time()
    time.sleep(3.0)  # what was received is written within a second
    samples, lost = _samples(home, since, until)
    asked = time.perf_counter()
    with connect(home) as client:
        found = client.devices()
        answered = time.perf_counter() - asked
    return Result(
        devices=devices,
        ready_seconds=ready_seconds,
        seconds=took,
        samples=samples,
        lost=lost,
        coordinator_cores=(after[0] - before[0]) / took,
        gateway_cores=(after[1] - before[1]) / took,
        coordinator_rss_mib=coordinator.memory_info().rss / 2**20,
        gateway_rss_mib=gateway.memory_info().rss / 2**20,
        devices_seconds=answered,
        online=sum(device.state == "online" for device in found),
    )


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _samples(home: Home, since: float, until: float) -> tuple[int, int]:
    """(received between, lost): an index that is missing between a device's first and last in that time."""
    query = """SELECT sum(n), sum(last - first + 1 - n) FROM (
        SELECT count(*) AS n, min(sample_index) AS first, max(sample_index) AS last FROM samples
        WHERE received_at >= ? AND received_at < ? GROUP BY device_id, boot_id)"""
    connection = sqlite3.connect(f"file:{home.state_file}?mode=ro", uri=True)
    try:
        samples, lost = connection.execute(query, (since, until)).fetchone()
    finally:
        connection.close()
    return int(samples or 0), int(lost or 0)


def _until_online(home: Home, devices: int, deadline: float) -> None:
    while True:
        try:
            with connect(home) as client:
                online = sum(gateway.online for gateway in client.discovery().gateways)
        except FleetError:
            online = 0
        if online >= devices:
            return
        if time.perf_counter() > deadline:
            raise SystemExit(f"{online} of {devices} devices were online after {READY_SECONDS:.0f} s")
        time.sleep(0.2)


def _glmfleet(home: Home, *arguments: str) -> None:
    command = [sys.executable, "-m", "fleet.cli", *arguments, "--home", str(home.path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[1000], help="one run for each number")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = [measure(devices, options.seconds) for devices in options.devices]
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
        return
    print("| devices | ready s | Hz | lost | coordinator cores | gateway cores | coordinator MiB | gateway MiB | list all s | online |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for one in results:
        print(
            f"| {one.devices:,} | {one.ready_seconds:.1f} | {one.hertz:.3f} | {one.lost:,} | {one.coordinator_cores:.2f} "
            f"| {one.gateway_cores:.2f} | {one.coordinator_rss_mib:.0f} | {one.gateway_rss_mib:.0f} | {one.devices_seconds:.2f} "
            f"| {one.online:,} |"
        )


if __name__ == "__main__":
    main()
