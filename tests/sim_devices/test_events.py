"""Scenarios carried out, with the devices' processes left out: what is done to them, and the log of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from protos.errors import InvalidInput, NotFound, Unavailable
from sim_devices.events import LOG, Events
from sim_devices.faults import parse_fault
from sim_devices.network import ShapedNetwork
from sim_devices.scenario import PlannedFault
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["a", "b", "c"]


class SignalledFleet:
    """Three devices as LocalFleet has them, of which only the signals are real."""

    def __init__(self, sim: Path) -> None:
        self._sim = sim
        self.told: list[tuple[str, str]] = []
        self.ended: set[str] = set()
        self.gateways: set[str] = set()
        self.broken: set[str] = set()
        for name in NAMES:
            blobs = self.folder(name) / "blobs" / "sha256"
            blobs.mkdir(parents=True)
            for digest in ("00ff", "0a1b", "c0de"):
                (blobs / digest).write_bytes(digest.encode() * 100)

    def folder(self, name: str) -> Path:
        return self._sim / name

    def status(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name, hollow=3 if name in self.gateways else 0) for name in NAMES]

    def send(self, name: str, number: signal.Signals) -> bool:
        self.told.append((name, number.name))
        return name not in self.ended

    def restart(self, name: str, _clock_skew_seconds: float) -> None:
        self.told.append((name, "restart"))
        if name in self.broken:
            raise Unavailable(f"{name}: its certificate expired")


@asynccontextmanager
async def events_of(folder: Path) -> AsyncIterator[tuple[Events, SignalledFleet, ShapedNetwork]]:
    fleet, network = SignalledFleet(folder), ShapedNetwork()
    for name in NAMES:
        await network.add(name)
    async with Events(fleet, network, folder) as events:  # type: ignore[arg-type]
        yield events, fleet, network
    await network.close()


def planned(text: str, at: float = 0.0, lasting: float | None = None) -> PlannedFault:
    return PlannedFault(parse_fault(text), at, at, lasting)


SCENARIO = [
    planned("kill one:*", 0.02, 0.1),
    PlannedFault(parse_fault("hang one:*"), 0.0, 0.2, 0.05),
    planned("partition a | b,c", 0.1, 0.1),
    planned("flip-bit one:*", 0.15),
    planned("heal", 0.3),
    planned("kill b", 0.31),
]


async def run_scenario(folder: Path, seed: int) -> bytes:
    async with events_of(folder) as (events, _, _):
        count = events.begin(SCENARIO, seed)
        assert count == 9
        await wait_until(lambda: (folder / LOG).read_bytes().count(b"\n") == count)
        return (folder / LOG).read_bytes()


def test_the_same_seed_writes_the_same_bytes_whatever_python_hashes_with(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from tests.sim_devices.test_events import run_scenario; "
        "sys.stdout.buffer.write(asyncio.run(run_scenario(Path(sys.argv[1]), int(sys.argv[2]))))"
    )

    def log(run: str, hashing: str, seed: str) -> bytes:
        folder = tmp_path / run
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": hashing, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder), seed], cwd=ROOT, env=environment, capture_output=True, check=True
        )
        return done.stdout

    logs = [log(str(run), hashing, "5") for run, hashing in enumerate(("0", "1", "random"))]
    assert logs[0] == logs[1] == logs[2]
    assert log("other", "0", "6") != logs[0]
    lines = [json.loads(line) for line in logs[0].splitlines()]
    assert [line["at_ms"] for line in lines] == sorted(line["at_ms"] for line in lines)
    assert any("bit" in line["detail"] for line in lines)


async def test_what_is_done_live_is_done_at_once_and_undone(tmp_path: Path) -> None:
    async with events_of(tmp_path) as (events, fleet, network):
        assert await events.once(planned("kill a")) == 1
        assert await events.once(planned("cut a b")) == 2
        assert fleet.told == [("a", "SIGKILL")]
        assert network.lane("a", "b").cut
        assert network.lane("b", "a").cut
        assert not network.lane("a", "c").cut
        assert [one["what"] for one in events.report()["active"]] == ["kill a", "cut a b"]  # type: ignore[attr-defined]
        await events.once(planned("heal a"))
        assert fleet.told == [("a", "SIGKILL"), ("a", "restart")]
        assert not network.lane("a", "b").cut
        assert events.report()["active"] == []
        await events.once(planned("hang b,c", lasting=0.02))
        await wait_until(lambda: ("c", "SIGCONT") in fleet.told)
        assert fleet.told[2:] == [("b", "SIGSTOP"), ("c", "SIGSTOP"), ("b", "SIGCONT"), ("c", "SIGCONT")]


async def test_what_cannot_be_done_is_said_and_not_active(tmp_path: Path) -> None:
    async with events_of(tmp_path) as (events, fleet, network):
        await network.remove("c")
        fleet.gateways.add("b")
        with pytest.raises(InvalidInput, match="b is a gateway of hollow devices"):
            await events.once(planned("slow * 2"))
        with pytest.raises(Unavailable, match="c was started without links"):
            await events.once(planned("cut a c"))
        with pytest.raises(Unavailable):  # its process does not listen
            await events.once(planned("slow a 2"))
        with pytest.raises(NotFound):
            await events.once(planned("flip-bit a dead"))
        report = events.report()
        assert report["active"] == []
        assert [json.loads(line)["detail"][:7] for line in report["log"]] == ["failed:"] * 4  # type: ignore[attr-defined]


async def test_who_ended_by_itself_is_not_started_by_a_fault_that_fails(tmp_path: Path) -> None:
    async with events_of(tmp_path) as (events, fleet, _):
        fleet.ended.add("a")
        with pytest.raises(NotFound, match="a does not run"):
            await events.once(planned("kill a"))
        assert fleet.told == [("a", "SIGKILL")]


async def test_a_start_that_fails_can_be_tried_again(tmp_path: Path) -> None:
    async with events_of(tmp_path) as (events, fleet, _):
        await events.once(planned("kill a"))
        fleet.broken.add("a")
        with pytest.raises(Unavailable, match="certificate"):
            await events.once(planned("rejoin a"))
        fleet.broken.clear()
        await events.once(planned("rejoin a"))
        assert fleet.told == [("a", "SIGKILL"), ("a", "restart"), ("a", "restart")]
        await events.once(planned("kill a"))  # it runs, so it can be
        assert fleet.told[-1] == ("a", "SIGKILL")
