"""The virtual day in small: everything is counted, nothing lost, and the same seed tells the same story."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.virtual import PROFILES, Day, run
from sim_devices.profiles import load_profile

ROOT = Path(__file__).resolve().parents[2]


def test_an_hour_without_outages_is_counted_to_the_last_joule(tmp_path: Path) -> None:
    outcome = run(Day(devices=50, hours=1, outage_hours=0), tmp_path)
    assert (outcome.samples, outcome.lost, outcome.stored, outcome.outages) == (50 * 61, 0, 50 * 61, 0)
    # Each gateway's devices take the profiles in turn; fifty over four gateways are 13, 13, 12, 12.
    watts = [load_profile(PROFILES[number % 3]).idle_watts for count in (13, 13, 12, 12) for number in range(count)]
    assert outcome.idle_joules == pytest.approx(sum(watts) * 3600, rel=1e-9)


def test_outages_are_seen_by_the_registry_and_cost_nothing_but_themselves(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        outcome = run(Day(devices=12, hours=6, outage_hours=3, outage_seconds=900), tmp_path, file)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    kinds = {event["event"] for event in events}
    assert {"online", "suspect", "offline", "stopped", "started", "end"} == kinds
    assert outcome.outages == sum(event["event"] == "stopped" for event in events) > 5
    assert outcome.lost == 0
    assert 0 < outcome.samples < 12 * 361
    # Every device that the registry called offline had been stopped before.
    assert [event["at_ms"] for event in events] == sorted(event["at_ms"] for event in events)


@pytest.mark.long  # three processes
@pytest.mark.parametrize("arguments", [["--devices", "30", "--hours", "1", "--outages", "1"]])
def test_the_same_seed_is_the_same_log_whatever_python_hashes_with(tmp_path: Path, arguments: list[str]) -> None:
    logs = []
    for seed, hashing in (("7", "0"), ("7", "4242"), ("8", "0")):
        file = tmp_path / f"{seed}-{hashing}"
        command = [sys.executable, "-m", "benchmarks.virtual", *arguments, "--seed", seed, "--log", str(file)]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hashing}, check=True, stdout=subprocess.DEVNULL)
        logs.append(file.read_bytes())
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]
    assert logs[0].count(b"\n") > 30
