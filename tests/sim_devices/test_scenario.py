from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import NotFound
from sim_devices.faults import parse_fault
from sim_devices.scenario import PlannedFault, log_line, timeline

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f"dev-{number}" for number in range(1, 13)]
PLANNED = (
    PlannedFault(parse_fault("kill one:dev-*"), 10, 60, 20),
    PlannedFault(parse_fault("partition dev-1,dev-2 | coordinator"), 5, 5, 2.5),
    PlannedFault(parse_fault("slow dev-1* 4"), 0, 100),
)
PROGRAM = """
from sim_devices.fleet_file import gallery, load_fleet
from sim_devices.scenario import log_line, timeline
for name in gallery():
    fleet = load_fleet(name)
    for event in timeline(fleet.faults, [device.name for device in fleet.devices], fleet.seed):
        print(log_line(event.at_ms, event.number, event.act, event.fault.text))
"""


def test_a_fault_starts_and_ends_in_order_of_time() -> None:
    events = timeline(PLANNED, NAMES, 7)
    assert all(before.at_ms <= after.at_ms for before, after in pairwise(events))
    assert sorted((event.number, event.act) for event in events) == [(1, "end"), (1, "start"), (2, "end"), (2, "start"), (3, "start")]
    start, end = (event for event in events if event.number == 1)
    assert end.at_ms - start.at_ms == 20_000
    assert end.fault == start.fault
    assert 10_000 <= start.at_ms <= 60_000
    assert [(event.at_ms, event.fault.text) for event in events if event.number == 2] == [
        (5000, "partition dev-1,dev-2 | coordinator"),
        (7500, "partition dev-1,dev-2 | coordinator"),
    ]


@given(st.integers(0, 2**63 - 1))
def test_the_seed_alone_decides(seed: int) -> None:
    assert timeline(PLANNED, NAMES, seed) == timeline(PLANNED, NAMES, seed)
    # One more fault in the file leaves the others as they were.
    more = timeline((*PLANNED, PlannedFault(parse_fault("hang one:dev-*"), 0, 100)), NAMES, seed)
    assert tuple(event for event in more if event.number <= len(PLANNED)) == timeline(PLANNED, NAMES, seed)


def test_other_seeds_other_times() -> None:
    assert len({timeline(PLANNED, NAMES, seed)[2].at_ms for seed in range(20)}) > 10


def test_a_selector_without_a_device_is_told() -> None:
    with pytest.raises(NotFound, match="'lamp-1'"):
        timeline([PlannedFault(parse_fault("kill lamp-1"), 0, 0)], NAMES, 0)


def test_the_same_bytes_whatever_python_hashes_with() -> None:
    logs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "random")
    }
    assert len(logs) == 1
    assert logs.pop().count(b"\n") > 10


def test_a_line_is_one_line() -> None:
    line = log_line(1500, 2, "start", "kill dev-1", 'it said "no"\nand more')
    assert line == '{"at_ms": 1500, "number": 2, "act": "start", "what": "kill dev-1", "detail": "it said \\"no\\"\\nand more"}'
