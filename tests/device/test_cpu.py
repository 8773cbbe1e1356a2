"""A real board's meter, against a made-up powercap folder."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from device.cpu import CpuHardware, copy_bandwidth
from device.power.rapl import Rapl
from protos.physics.costs import StageCost
from protos.physics.timing import StageRun
from protos.v1 import telemetry_pb2
from tests.support.powercap import add_domain
from tests.support.turns import run_once

RUN = StageRun(StageCost())


def metered(file: Path, microjoules: str) -> Callable[[], None]:
    """A run at whose end the counter reads this."""

    def run() -> None:
        file.write_text(microjoules)

    return run


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.cpu.copy_bandwidth", lambda: 1.0)


@pytest.fixture
def hardware(tmp_path: Path) -> Iterator[tuple[CpuHardware, Path]]:
    file = add_domain(tmp_path, "0", 0)
    hardware = CpuHardware(1 << 20, 1, Rapl.find(tmp_path))
    yield hardware, file
    hardware.close()


async def test_busy_and_idle_joules_are_all_there_are(hardware: tuple[CpuHardware, Path]) -> None:
    cpu, file = hardware
    assert cpu.info.energy_source == telemetry_pb2.ENERGY_SOURCE_MEASURED
    file.write_text("100000")
    report = await run_once(cpu, RUN, metered(file, "400000"))
    assert report.joules == pytest.approx(0.3)
    assert report.modelled_seconds is None
    file.write_text("500000")
    reading = cpu.energy()
    assert (reading.busy_joules, reading.idle_joules) == (pytest.approx(0.3), pytest.approx(0.2))


async def test_a_run_does_not_pay_for_the_one_before_it(hardware: tuple[CpuHardware, Path]) -> None:
    cpu, file = hardware
    spent = ("300000", "350000")
    first, second = await asyncio.gather(*(run_once(cpu, RUN, metered(file, text)) for text in spent))
    assert first.joules == pytest.approx(0.3)
    assert second.joules == pytest.approx(0.05)
    assert cpu.energy().busy_joules == pytest.approx(0.35)


async def test_a_failed_run_is_raised_and_paid(hardware: tuple[CpuHardware, Path]) -> None:
    cpu, file = hardware

    def fail() -> None:
        file.write_text("200000")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await run_once(cpu, RUN, fail)
    assert cpu.energy().busy_joules == pytest.approx(0.2)


class Blind:
    """A meter that knows nothing of a second of the run."""

    what, seconds = "a made-up meter", 0.0

    def joules(self) -> float:
        return 2.0 + self.seconds

    def blind_seconds(self) -> float:
        return self.seconds

    def close(self) -> None:
        self.seconds = -1.0


async def test_what_was_not_measured_is_not_zero() -> None:
    meter = Blind()
    cpu = CpuHardware(1 << 20, 1, meter)
    assert cpu.info.description.endswith("; joules of a made-up meter")
    assert (await run_once(cpu, RUN, lambda: None)).joules == 0.0

    def run() -> None:
        meter.seconds = 1.0

    assert (await run_once(cpu, RUN, run)).joules is None
    assert cpu.energy().elapsed_seconds < 1.0
    cpu.close()
    assert meter.seconds == -1.0


async def test_unmetered_is_said_as_such(tmp_path: Path) -> None:
    cpu = CpuHardware(1 << 20, 1, Rapl.find(tmp_path))
    report = await run_once(cpu, RUN, lambda: None)
    reading = cpu.energy()
    cpu.close()
    assert report.joules is reading.busy_joules is reading.idle_joules is None
    assert cpu.info.energy_source == telemetry_pb2.ENERGY_SOURCE_UNMETERED
    assert reading.elapsed_seconds > 0


async def test_runs_are_in_the_order_asked(tmp_path: Path) -> None:
    cpu = CpuHardware(1 << 20, 1, Rapl.find(tmp_path))
    order: list[int] = []
    await asyncio.gather(*(run_once(cpu, RUN, partial(order.append, number)) for number in range(20)))
    cpu.close()
    assert order == list(range(20))


async def test_a_brief_turn_is_at_once_unless_others_wait(tmp_path: Path) -> None:
    cpu = CpuHardware(1 << 20, 1, Rapl.find(tmp_path))
    here, busy, go = threading.get_ident(), threading.Event(), threading.Event()
    assert await cpu.turn(threading.get_ident, brief=True) == here
    assert await cpu.turn(threading.get_ident) != here

    def stand() -> None:
        busy.set()
        go.wait(10)

    standing = asyncio.create_task(cpu.turn(stand), name="standing")
    await asyncio.to_thread(busy.wait, 10)
    standing.cancel()  # who asked has left; the thread still runs
    waiting = asyncio.create_task(cpu.turn(threading.get_ident, brief=True), name="waiting")
    await asyncio.sleep(0)
    assert not waiting.done()
    go.set()
    assert await waiting != here
    assert await cpu.turn(threading.get_ident, brief=True) == here
    with pytest.raises(ZeroDivisionError):
        await cpu.turn(lambda: 1 // 0, brief=True)
    cpu.close()


def test_bandwidth_is_a_plausible_figure() -> None:
    assert 1e8 < copy_bandwidth(1 << 20) < 1e13
