"""What `glmfleet devices show` says, and what the API says of one device and of all."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import datetime

import pytest

from fleet.devices.views import StateChange
from fleet.home import Home
from tests.support.command import Command
from tests.support.fake_coordinator import DEVICE, FakeCoordinator

BEGIN = datetime(2026, 11, 30, 4, 5, 6, 700_000).astimezone().timestamp()
ZONE = time.strftime("%Z", time.localtime(BEGIN))
HISTORY = (
    StateChange(BEGIN, "offline", "online", "it answers at 127.0.0.1:7420"),
    StateChange(BEGIN + 60.0, "online", "suspect", "silent for 0.8 s"),
)


@pytest.mark.parametrize("key", ["dev-1", DEVICE.device_id])
def test_one_device_has_its_history(glmfleet: Command, served: Home, coordinator: FakeCoordinator, key: str) -> None:
    coordinator.found = [dataclasses.replace(DEVICE, history=HISTORY)]
    code, out, _ = glmfleet("devices", "show", key, "--home", served.path)
    assert code == 0
    assert out.splitlines()[1].split()[:4] == ["dev-1", "rk3588", "simulated", "online"]
    assert [line.split() for line in out.splitlines()[3:]] == [
        ["when", "was", "is", "why"],
        ["2026-11-30", "04:05:06.7", ZONE, "offline", "online", "it", "answers", "at", "127.0.0.1:7420"],
        ["2026-11-30", "04:06:06.7", ZONE, "online", "suspect", "silent", "for", "0.8", "s"],
    ]
    told = json.loads(glmfleet("devices", "show", key, "--json", "--home", served.path)[1])
    assert told["history"] == [dataclasses.asdict(change) for change in HISTORY]


def test_the_list_is_without(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.found = [dataclasses.replace(DEVICE, history=HISTORY)]
    assert json.loads(glmfleet("devices", "--json", "--home", served.path)[1])[0]["history"] == []


def test_a_device_that_was_always_so(glmfleet: Command, served: Home) -> None:
    assert glmfleet("devices", "show", "dev-1", "--home", served.path)[2].endswith(
        "its state has not changed since the coordinator started\n"
    )


def test_an_unknown_one(glmfleet: Command, served: Home) -> None:
    code, _, err = glmfleet("devices", "show", "dev-9", "--home", served.path)
    assert code == 1
    assert "no device dev-9" in err
