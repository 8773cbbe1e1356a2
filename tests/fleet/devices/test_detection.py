"""How soon a silent device is noticed, and what is on record of what was believed of it."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.devices.record import CHANGES
from fleet.devices.registry import Registry
from protos.errors import Unavailable
from tests.fleet.devices.test_registry import setup
from tests.support.fake_fleet import QUICK
from tests.support.hollow_fleet import hollow_fleet
from tests.support.members import TestFleet, credentials_of
from tests.support.proxy import Proxy
from tests.support.waiting import wait_online, wait_until

SLACK = 0.5  # other tests compute beside this one


async def test_one_that_beats_is_suspect_within_a_second_and_gone_within_two(tmp_path: Path) -> None:
    """Its process has stopped, or the cable is cut: the stream stands, and nothing comes. The redial finds it as soon as it is back."""
    async with setup(tmp_path, replace(QUICK, interval_seconds=1.0)) as s:
        s.device.is_told.beats = True
        s.find()
        await s.state("online")
        await asyncio.sleep(0.5)
        s.device.is_told.silent = True
        stopped = time.monotonic()
        await s.state("suspect")
        assert 0.4 < time.monotonic() - stopped < 1.0 + SLACK
        assert s.record.connected
        assert s.record.detail.startswith("silent for 0.")
        s.device.is_told.holds["Describe"] = asyncio.Event()
        await s.state("offline")
        assert 1.4 < time.monotonic() - stopped < 2.0 + SLACK
        assert not s.record.connected
        with pytest.raises(Unavailable, match=r"it was silent for 1\.[789] s"):
            s.registry.client(s.device.device)
        s.device.is_told.silent = False
        s.device.is_told.holds.pop("Describe").set()
        await s.state("online")
        history = s.record.history
        assert [(one.before, one.state) for one in history] == [
            ("offline", "online"),
            ("online", "suspect"),
            ("suspect", "offline"),
            ("offline", "online"),
        ]
        answers = f"it answers at {s.device.address}"
        assert [history[0].why, history[1].why[:12], history[2].why[:16], history[3].why] == [
            answers,
            "silent for 0",
            "it was silent for 1"[:16],
            answers,
        ]
        assert all(before.at <= after.at for before, after in itertools.pairwise(history))


async def test_a_short_silence_is_only_suspicious(tmp_path: Path) -> None:
    async with setup(tmp_path, replace(QUICK, interval_seconds=1.0)) as s:
        s.device.is_told.beats = True
        s.find()
        await s.state("online")
        s.device.is_told.silent = True
        await s.state("suspect")
        s.device.is_told.silent = False
        await s.state("online")
        assert s.device.calls.count("WatchTelemetry") == 1
        assert s.record.history[-1].why == "it is heard again"
        s.registry.gone(s.device.device)
        assert s.record.state == "online"
        assert s.record.history[-1].why == "it said goodbye"


async def test_what_is_remembered_of_a_device_is_bounded(tmp_path: Path) -> None:
    async with setup(tmp_path) as s:
        s.find()
        await s.state("online")
        watched = s.registry._direct[s.device.device].watched
        for number in range(100):
            watched.note(str(number))
        assert [one.why for one in s.record.history] == [str(number) for number in range(100 - CHANGES, 100)]


async def test_whom_a_neighbour_does_not_hear_is_on_record_and_stays_online(tmp_path: Path) -> None:
    """Their link may be cut, and ours to both is not. Said once, however often it is told; of who is not known, nothing."""
    async with setup(tmp_path) as s:
        s.find()
        await s.state("online")
        s.device.is_told.silent_neighbours = [s.device.device, "nobody"]  # it alone is here, so of itself
        await wait_until(lambda: len(s.record.history) == 2)
        count = len(s.samples)
        await wait_until(lambda: len(s.samples) > count + 3)
        s.device.is_told.silent_neighbours = []
        count = len(s.samples)
        await wait_until(lambda: len(s.samples) > count + 3)
        s.device.is_told.silent_neighbours = [s.device.device]
        await wait_until(lambda: len(s.record.history) == 3)
        assert [one.why for one in s.record.history[1:]] == ["dev-1 hears nothing of it"] * 2
        assert {one.state for one in s.record.history} == {"online"}


async def test_a_gateway_beats_for_all_that_is_behind_it(tmp_path: Path) -> None:
    """One beat each 0.25 s, however many they are; when it is silent, all are suspect."""
    members = TestFleet.open(tmp_path)
    ours = credentials_of(members.member("coordinator", "coordinator"))
    rules = replace(QUICK, interval_seconds=1.0, suspect_intervals=3)
    async with hollow_fleet(members, 20) as fleet, Proxy(fleet.address) as proxy, Registry(ours, lambda _: None, rules=rules) as registry:
        registry.found_gateway(fleet.gateway, (proxy.address,), "mdns")
        await wait_online(registry.records, 20, 10)
        await asyncio.sleep(0.5)
        proxy.stall()
        stopped = time.monotonic()

        def states() -> set[str]:
            return {record.state for record in registry.records()}

        await wait_until(lambda: states() == {"suspect"})
        assert 0.4 < time.monotonic() - stopped < 1.0 + SLACK
        assert {record.detail[:12] for record in registry.records()} == {"silent for 0"}
        await wait_until(lambda: not registry.gateways()[0].connected)
        assert time.monotonic() - stopped < 2.0 + SLACK
        assert "it was silent for 1." in registry.gateways()[0].detail
        assert not any(record.connected for record in registry.records())
        proxy.resume()
        await wait_until(lambda: states() == {"online"})
