"""A thousand devices on a screen: counted, not listed; hollow ones never without the word."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fleet.devices.views import DeviceView
from fleet.home import Home
from tests.support.command import Command
from tests.support.fake_coordinator import DEVICE, ROW, FakeCoordinator
from tests.support.processes import Glmfleet


@pytest.fixture
def thousand(coordinator: FakeCoordinator) -> list[DeviceView]:
    """30 of them offline, one holds a stage."""
    hollow = replace(DEVICE, hollow=True, stages=(), gateway="g" * 16)
    found = [replace(hollow, device_id=f"d{number}", name=f"hollow-1-{number}") for number in range(1, 1001)]
    found[:30] = [replace(device, state="offline", detail="no telemetry for 20 s") for device in found[:30]]
    found[500] = replace(found[500], stages=DEVICE.stages)
    coordinator.found = found
    return found


def test_devices_are_counted_and_those_in_trouble_named(glmfleet: Command, served: Home, thousand: list[DeviceView]) -> None:
    _, out, err = glmfleet("devices", "--home", served.path)
    assert [line.split() for line in out.splitlines()] == [
        ["devices", "profile", "kind", "state", "memory", "each"],
        ["30", "rk3588", "hollow", "offline", "8.0", "GiB"],
        ["970", "rk3588", "hollow", "online", "8.0", "GiB"],
    ]
    lines = err.splitlines()
    assert lines[0] == "hollow-1-501: tiny stage 0 of 1: layers 0-3"
    assert lines[1] == "hollow-1-1 is offline: no telemetry for 20 s"
    assert lines[21:] == ["and 10 devices more", "1,000 devices; glmfleet devices --all lists each, --json all there is to know"]


def test_all_of_them_on_request(glmfleet: Command, served: Home, thousand: list[DeviceView]) -> None:
    out = glmfleet("devices", "--all", "--home", served.path)[1]
    assert len(out.splitlines()) == 1001
    assert all("hollow" in line.split()[2] for line in out.splitlines()[1:])
    assert len(json.loads(glmfleet("devices", "--json", "--home", served.path)[1])) == 1000


def test_doctor_counts_the_healthy(glmfleet: Command, served: Home, thousand: list[DeviceView]) -> None:
    code, out, _ = glmfleet("doctor", "--home", served.path)
    assert code == 1
    assert "PROBLEM  devices: online: 970 hollow; 30 are not\n" in out
    assert out.count("PROBLEM  device hollow-1-") == 20
    assert "(hollow: it computes nothing)" in out


def test_telemetry_sums_up_the_hollow(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    hollow = replace(ROW, requests=0, busy_joules=0.0, idle_joules=2.0, hollow=True)
    coordinator.rows = [ROW, *(replace(hollow, key=f"hollow-1-{number}", device_id=f"d{number}") for number in range(1000))]
    _, out, err = glmfleet("telemetry", "--home", served.path)
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["dev-1"]
    assert err == "1,000 hollow devices, which compute nothing: 2,000 J idle, modelled; --json lists each\n"
    coordinator.rows = coordinator.rows[:3]
    words = glmfleet("telemetry", "--home", served.path)[1].split()
    assert (words.count("modelled,"), words.count("hollow")) == (2, 2)  # in each hollow device's own line


def test_hollow_devices_start_are_listed_as_one_and_stop(home: Home) -> None:
    """The commands as a user gives them, over a real process."""
    glmfleet = Glmfleet(home.path)
    try:
        up = glmfleet("sim", "up", "--hollow", 25, "--profile", "rk3588", "--json")
        assert up.returncode == 0, up.stderr
        [gateway] = json.loads(up.stdout)
        assert (gateway["name"], gateway["hollow"], gateway["profile"]) == ("hollow-1", 25, "rk3588")
        assert (home.sim / "hollow-1" / "certificate.pem").exists()
        assert glmfleet("sim", "status").stdout.splitlines()[1].split()[:5] == ["hollow-1", "rk3588", "25", "hollow", "running"]
    finally:
        down = glmfleet("sim", "down")
    assert (down.returncode, down.stderr) == (0, "25 devices stopped; what they hold is kept for the next time (--purge deletes it)\n")
