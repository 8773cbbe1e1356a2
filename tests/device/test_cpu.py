"""A real board's meter, against a made-up powercap folder."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from device.cpu import CpuHardware, Rapl, copy_bandwidth
from protos.physics.costs import StageCost
from protos.physics.timing import StageRun
from protos.v1 import telemetry_pb2
from tests.support.turns import run_once

RUN = StageRun(StageCost())
RANGE_UJ = 1_000_000


def add_domain(root: Path, number: str, value_uj: int, name: str = "package-0") -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (folder / "energy_uj").write_text(f"{value_uj}\n")
    return folder / "energy_uj"


def find(root: Path) -> Rapl:
    meter = Rapl.find(root)
    assert meter
    return meter


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
    hardware = CpuHardware(1 << 20, 1, powercap=tmp_path)
    yield hardware, file
    hardware.close()


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path) -> None:
    first, second = add_domain(tmp_path, "0", 100), add_domain(tmp_path, "1", 200, "package-1")
    part, platform = add_domain(tmp_path, "0:0", 300, "core"), add_domain(tmp_path, "2", 400, "psys")
    meter = find(tmp_path)
    assert meter.joules() == 0
    for file, value in ((first, 500_100), (second, 250_200), (part, 900_000), (platform, 900_000)):
        file.write_text(str(value))
    assert meter.joules() == pytest.approx(0.75)


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    file = add_domain(tmp_path, "0", RANGE_UJ - 10)
    meter = find(tmp_path)
    file.write_text("4")  # 10 to the largest value, one to zero, four more
    assert meter.joules() == pytest.approx(15e-6)
    file.write_text(str(RANGE_UJ))
    file.write_text("3")
    assert meter.joules() == pytest.approx(15e-6 + (RANGE_UJ + 1 - 1) / 1e6)


def test_no_meter_where_there_is_none_or_it_says_nothing(tmp_path: Path) -> None:
    assert Rapl.find(tmp_path / "nowhere") is None
    assert Rapl.find(tmp_path) is None
    file = add_domain(tmp_path, "0", 5)
    assert Rapl.find(tmp_path) is not None
    file.write_text("")
    assert Rapl.find(tmp_path) is None
    file.unlink()
    assert Rapl.find(tmp_path) is None
    file.mkdir()  # an OSError for everybody, as a file of mode 0 is for all but root
    assert Rapl.find(tmp_path) is None


def test_two_packages_are_read_or_none(tmp_path: Path) -> None:
    add_domain(tmp_path, "0", 5)
    add_domain(tmp_path, "1", 5, "package-1").unlink()
    assert Rapl.find(tmp_path) is None


def test_a_counter_that_is_lost_stands_still(tmp_path: Path) -> None:
    file = add_domain(tmp_path, "0", 0)
    meter = find(tmp_path)
    file.write_text("70")
    assert meter.joules() == pytest.approx(70e-6)
    file.unlink()
    assert meter.joules() == pytest.approx(70e-6)
    file.write_text("90")
    assert meter.joules() == pytest.approx(90e-6)


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


async def test_unmetered_is_said_as_such(tmp_path: Path) -> None:
    cpu = CpuHardware(1 << 20, 1, powercap=tmp_path)
    report = await run_once(cpu, RUN, lambda: None)
    reading = cpu.energy()
    cpu.close()
    assert report.joules is reading.busy_joules is reading.idle_joules is None
    assert cpu.info.energy_source == telemetry_pb2.ENERGY_SOURCE_UNMETERED
    assert reading.elapsed_seconds > 0


async def test_runs_are_in_the_order_asked(tmp_path: Path) -> None:
    cpu = CpuHardware(1 << 20, 1, powercap=tmp_path)
    order: list[int] = []
    await asyncio.gather(*(run_once(cpu, RUN, partial(order.append, number)) for number in range(20)))
    cpu.close()
    assert order == list(range(20))


async def test_a_brief_turn_is_at_once_unless_others_wait(tmp_path: Path) -> None:
    cpu = CpuHardware(1 << 20, 1, powercap=tmp_path)
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
