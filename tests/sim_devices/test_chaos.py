from __future__ import annotations

from pathlib import Path

from sim_devices.chaos import KILL_COORDINATOR, scenario_text, troubles
from sim_devices.faults import KINDS
from sim_devices.fleet_file import parse_scenario

NAMES = ("dev-1", "dev-2", "dev-3", "dev-4")


def test_the_same_seed_is_the_same_chaos() -> None:
    assert troubles(7, 600, 20, NAMES) == troubles(7, 600, 20, NAMES)
    assert troubles(7, 600, 20, NAMES) != troubles(8, 600, 20, NAMES)


def test_they_come_as_often_as_was_asked_for_and_are_over_in_time() -> None:
    found = troubles(1, 36_000, 20, NAMES)
    assert 1600 < len(found) < 2000
    assert all(one.at_seconds + one.for_seconds <= 36_000 for one in found)
    assert [one.at_seconds for one in found] == sorted(one.at_seconds for one in found)
    kinds = {one.what.split()[0] for one in found}
    # A killed device that rejoins and what is healed are the ends of others; no simulated board of a chaos runs on a battery.
    assert kinds == set(KINDS) - {"rejoin", "heal", "battery-empty"}
    assert any(one.what == KILL_COORDINATOR for one in found)


def test_the_world_reads_them() -> None:
    found = [one for one in troubles(3, 3600, 20, NAMES) if one.what != KILL_COORDINATOR]
    read = parse_scenario("chaos", scenario_text(troubles(3, 3600, 20, NAMES), 3), Path()).faults
    assert [(each.earliest_seconds, each.latest_seconds, each.for_seconds) for each in read] == [
        (one.at_seconds, one.at_seconds, one.for_seconds) for one in found
    ]
    assert [each.fault.devices for each in read] == [
        tuple(word for word in one.what.split() if word in (*NAMES, "coordinator")) for one in found
    ]
