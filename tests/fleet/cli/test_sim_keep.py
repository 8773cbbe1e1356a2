"""Devices that end are started again, more and more seldom where they end again and again; who was taken down is not."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.cli.sim_keep import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, STEADY_SECONDS, Keeper, keep
from protos.errors import TimedOut
from sim_devices.local_fleet import DeviceSpec, LocalDevice, LocalFleet
from tests.support.command import Command


def device(*, running: bool = False) -> LocalDevice:
    return LocalDevice("sim-1", "rk3588", "fast", None, 7, 1.0, running=running, detail="killed")


def test_it_waits_longer_each_time_and_begins_anew_when_it_ran_steadily() -> None:
    keeper, now, waits = Keeper(), 100.0, []
    for ran in (0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, STEADY_SECONDS, 1.0):
        assert keeper.due([device(running=True)], now) == []
        now += ran
        began = now
        while not keeper.due([device()], now):
            now += 0.125
        waits.append(now - began)
        keeper.started("sim-1", now)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS, 1.0]


class Home:
    """Its device ends at the second look, does not start at once, and was taken down at the end."""

    def __init__(self) -> None:
        self.looks = 0
        self.restarts = 0

    def status(self) -> list[LocalDevice]:
        self.looks += 1
        return [] if self.restarts > 1 and self.looks > 40 else [device(running=self.looks == 1 or self.restarts > 1)]

    def restart(self, name: str) -> LocalDevice:
        self.restarts += 1
        if self.restarts == 1:
            raise TimedOut("it said nothing")
        return replace(device(), name=name)


def test_it_says_what_it_does_and_ends_when_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    home, now = Home(), 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    keep(home, clock=lambda: now, sleep=sleep)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "whatever ends is started again; Ctrl-C ends that, and leaves the devices running",
        "sim-1 ended: killed; it is started again",
        "sim-1 could not be started: it said nothing",
        "sim-1 ended: killed; it is started again",
        "no simulated device is left",
    ]


def test_ctrl_c_leaves_them_running() -> None:
    home = Home()

    def sleep(_: float) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        keep(home, sleep=sleep)
    assert not home.restarts


def test_a_files_faults_are_not_undone(glmfleet: Command, tmp_path: Path) -> None:
    code, _, err = glmfleet("sim", "up", "street", "--keep", "--home", tmp_path / "home")
    assert code == 1
    assert "--no-faults" in err


def test_a_real_one_that_is_killed_is_there_again(tmp_path: Path) -> None:
    local = LocalFleet(tmp_path, lambda folder, name: None)
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        time.sleep(seconds)
        running = [one for one in local.status() if one.running]
        if looks == 1:
            local.send(first.name, signal.SIGKILL)
        elif [one for one in running if one.started != first.started]:
            local.down()

    try:
        [first] = local.up([DeviceSpec("rk3588")], insecure=True)
        keep(local, sleep=sleep)
        assert looks > 1
    finally:
        local.down()
