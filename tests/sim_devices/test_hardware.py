from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from device.hardware import Hardware
from protos.physics.costs import StageCost
from protos.physics.timing import Decode, StageRun
from protos.v1 import telemetry_pb2
from sim_devices.board import Modelled
from sim_devices.hardware import Pace, SimulatedHardware
from sim_devices.profiles import load_profile
from tests.support.turns import run_once

PROFILE = load_profile("rk3588")
RUN = StageRun(StageCost(read_bytes=90_000_000, macs_per_row=1_000_000, kv_bytes_per_token=5_000_000), Decode((0,)))
ESTIMATE = PROFILE.roofline.estimate(RUN)
MODELLED = Modelled(ESTIMATE.seconds, PROFILE.idle_watts * ESTIMATE.seconds + ESTIMATE.joules)


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@contextmanager
def hardware_with(pace: Pace, clock: Clock) -> Iterator[SimulatedHardware]:
    hardware = SimulatedHardware(PROFILE, pace, clock=clock, pause=clock.pass_)
    try:
        yield hardware
    finally:
        hardware.close()


def test_it_describes_itself() -> None:
    with hardware_with("realtime", Clock()) as made:
        hardware: Hardware = made
        info = hardware.info
        assert (info.profile, info.simulated, info.pace) == ("rk3588", True, "realtime")
        assert (info.figures, info.thermal) == (PROFILE.effective, PROFILE.thermal)
        assert info.energy_source == telemetry_pb2.ENERGY_SOURCE_MODELLED
        assert hardware.memory_bytes == PROFILE.memory_bytes
        warm = PROFILE.thermal.steady_celsius(PROFILE.idle_watts)
        condition = hardware.condition()
        assert condition.temperature_celsius == pytest.approx(warm)
        assert (condition.throttled, condition.battery_fraction) == (False, None)


async def test_only_a_fast_pace_may_run_in_the_event_loop() -> None:
    for pace in ("fast", "realtime"):
        with hardware_with(pace, Clock()) as hardware:
            at_once = await hardware.turn(threading.get_ident, brief=True) == threading.get_ident()
            assert at_once == (pace == "fast")


async def test_fast_does_not_wait_and_reports_both_times() -> None:
    clock = Clock()
    with hardware_with("fast", clock) as hardware:
        report = await run_once(hardware, RUN, lambda: clock.pass_(0.001))
        assert report.wall_seconds == pytest.approx(0.001)
        assert (report.modelled_seconds, report.joules) == (MODELLED.seconds, MODELLED.joules)
        assert clock.now == pytest.approx(100.001)
        assert hardware.overruns == 0


async def test_realtime_waits_until_the_modelled_time_has_passed() -> None:
    clock = Clock()
    with hardware_with("realtime", clock) as hardware:
        report = await run_once(hardware, RUN, lambda: clock.pass_(MODELLED.seconds / 4))
        assert report.wall_seconds == pytest.approx(MODELLED.seconds)
        assert (hardware.runs, hardware.overruns) == (1, 0)


async def test_realtime_counts_what_this_machine_could_not_keep_up_with(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with hardware_with("realtime", clock) as hardware, caplog.at_level(logging.WARNING):
        report = await run_once(hardware, RUN, lambda: clock.pass_(MODELLED.seconds * 3))
        assert report.wall_seconds == pytest.approx(MODELLED.seconds * 3)
        assert report.modelled_seconds == MODELLED.seconds
        assert (hardware.runs, hardware.overruns) == (1, 1)
    assert "1 of 1 runs took longer on this machine" in caplog.text


async def test_busy_and_idle_joules_add_up() -> None:
    clock = Clock()
    with hardware_with("fast", clock) as hardware:
        clock.pass_(2.0)
        for _ in range(3):
            await run_once(hardware, RUN, lambda: clock.pass_(0.5))
        clock.pass_(1.0)
        reading = hardware.energy()
    assert reading.busy_joules == pytest.approx(3 * MODELLED.joules)
    assert reading.idle_joules == pytest.approx(3.0 * PROFILE.idle_watts)
    assert reading.elapsed_seconds == pytest.approx(3 * MODELLED.seconds + 3.0)


async def test_idle_joules_stand_still_while_a_run_lasts() -> None:
    clock, entered, leave = Clock(), threading.Event(), threading.Event()

    def run() -> None:
        entered.set()
        assert leave.wait(10)

    with hardware_with("fast", clock) as hardware:
        clock.pass_(1.0)
        task = asyncio.create_task(run_once(hardware, RUN, run), name="run")
        assert await asyncio.to_thread(entered.wait, 10)
        clock.pass_(5.0)
        during = hardware.energy()
        leave.set()
        await task
        assert during.idle_joules == hardware.energy().idle_joules == pytest.approx(PROFILE.idle_watts)


async def test_runs_are_executed_one_at_a_time_in_order() -> None:
    clock, order = Clock(), list[int]()
    with hardware_with("realtime", clock) as hardware:
        await asyncio.gather(*(run_once(hardware, RUN, partial(order.append, number)) for number in range(5)))
        assert clock.now == pytest.approx(100 + 5 * MODELLED.seconds)
    assert order == list(range(5))


async def test_an_error_of_the_run_is_raised_and_costs_nothing() -> None:
    def fail() -> None:
        raise ValueError("broken")

    with hardware_with("realtime", Clock()) as hardware:
        with pytest.raises(ValueError, match="broken"):
            await run_once(hardware, RUN, fail)
        assert hardware.energy().busy_joules == 0.0
        assert (await run_once(hardware, RUN, lambda: None)).joules == MODELLED.joules


async def test_closing_ends_a_wait() -> None:
    ran = threading.Event()
    hardware = SimulatedHardware(PROFILE, "realtime")
    minute = StageRun(StageCost(read_bytes=10**12), Decode((0,)))
    task = asyncio.create_task(run_once(hardware, minute, ran.set), name="run")
    assert await asyncio.to_thread(ran.wait, 10)
    await asyncio.wait_for(asyncio.to_thread(hardware.close), 10)
    assert (await task).modelled_seconds == pytest.approx(PROFILE.roofline.estimate(minute).seconds)
