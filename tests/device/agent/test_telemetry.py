"""Samples: an index that counts, counters that grow, and joules only where somebody counted."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from device.agent.host import StageHost
from device.agent.telemetry import TelemetrySampler, this_process
from device.blobs import BlobStore
from device.cpu import CpuHardware
from device.hardware import AcceleratorInfo, Condition, EnergyReading, RunReport, T
from device.pipeline.accounts import WorkCounter
from protos.elapsed import elapsed
from protos.ids import DeviceId
from protos.physics.timing import StageRun
from protos.v1 import telemetry_pb2 as pb


@dataclass
class Metered:
    readings: list[EnergyReading]
    memory_bytes: int = 1
    info: AcceleratorInfo = field(default_factory=lambda: AcceleratorInfo("x", "", False, "", 1, pb.ENERGY_SOURCE_MEASURED))

    async def turn(self, function: Callable[[], T], *, brief: bool = False) -> T:
        raise NotImplementedError

    def run(self, run: StageRun, compute: Callable[[], None]) -> RunReport:
        raise NotImplementedError

    def energy(self) -> EnergyReading:
        return self.readings.pop(0)

    def condition(self) -> Condition:
        return Condition(41.5, throttled=True, battery_fraction=0.25)

    def close(self) -> None:
        pass


@pytest.fixture
def telemetry(tmp_path: Path) -> Callable[..., TelemetrySampler]:
    def make(*readings: EnergyReading, work: WorkCounter | None = None) -> TelemetrySampler:
        hardware = Metered(list(readings))
        host = StageHost(DeviceId("me"), hardware, BlobStore(tmp_path), None)
        host.work = work or host.work
        return TelemetrySampler(DeviceId("me"), hardware, host)

    return make


def test_energy_and_mean_power_since_the_sample_before(telemetry: Callable[..., TelemetrySampler]) -> None:
    one = telemetry(EnergyReading(10.0, 2.0, 4.0), EnergyReading(20.0, 4.0, 6.0), EnergyReading(20.0, 4.0, 6.0))
    first, second, third = (one.sample() for _ in range(3))
    assert (first.energy.busy_joules, first.energy.idle_joules, first.energy.source) == (10.0, 2.0, pb.ENERGY_SOURCE_MEASURED)
    assert first.gauges.power_watts == 3.0
    assert second.gauges.power_watts == 6.0
    assert third.gauges.power_watts == 0.0  # no time has passed


def test_unmetered_joules_are_absent(telemetry: Callable[..., TelemetrySampler]) -> None:
    sample = telemetry(EnergyReading(None, None, 4.0)).sample()
    assert not sample.HasField("energy")
    assert sample.gauges.power_watts == 0


def test_a_store_that_can_keep_no_more_is_told(tmp_path: Path) -> None:
    hardware, blobs = Metered([EnergyReading(None, None, 0.0)] * 2), BlobStore(tmp_path)
    one = TelemetrySampler(
        DeviceId("me"), hardware, StageHost(DeviceId("me"), hardware, blobs, None), storage_problem=lambda: blobs.problem
    )
    assert one.sample().gauges.storage_problem == ""
    shutil.rmtree(tmp_path)
    blobs.look()
    assert "it is not there" in one.sample().gauges.storage_problem


def test_samples_count_within_a_boot(telemetry: Callable[..., TelemetrySampler]) -> None:
    one = telemetry(*[EnergyReading(None, None, 0.0)] * 3)
    samples = [one.sample() for _ in range(3)]
    assert [sample.index for sample in samples] == [0, 1, 2]
    assert {sample.boot_id for sample in samples} == {one.boot_id} != {telemetry().boot_id}
    assert {sample.device_id for sample in samples} == {"me"}
    uptimes = [sample.uptime_seconds for sample in samples]
    assert uptimes == sorted(uptimes)
    assert samples[-1].gauges.process_rss_bytes > 1 << 20
    assert samples[-1].gauges.process_cpu_seconds >= samples[0].gauges.process_cpu_seconds > 0
    gauges = samples[-1].gauges
    assert (gauges.temperature_celsius, gauges.throttled, gauges.battery_fraction) == (41.5, True, 0.25)


def test_the_device_s_work_is_told_whether_or_not_it_is_metered(telemetry: Callable[..., TelemetrySampler]) -> None:
    work = WorkCounter()
    one = telemetry(*[EnergyReading(None, None, 0.0)] * 2, work=work)
    assert one.sample().work == pb.WorkCounter()
    assert one.sample().HasField("work")
    work.add(RunReport(0.5, 0.25, 3.0), prefill_tokens=4, answer_tokens=1)
    work.add(RunReport(0.5, None, None), decode_tokens=2, answer_tokens=2)
    expected = pb.WorkCounter(
        prefill_tokens=4, decode_tokens=2, answer_tokens=3, busy_seconds=1.0, modelled_busy_seconds=0.25, busy_joules=3.0
    )
    assert telemetry(EnergyReading(1.0, 1.0, 1.0), work=work).sample().work == expected


def test_the_time_since_the_boot_goes_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 5000.0}.__getitem__)
    assert elapsed() == 5000.0
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert elapsed() == pytest.approx(time.monotonic(), abs=1.0)


def test_a_sample_is_told_also_where_descriptors_have_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.cpu.copy_bandwidth", lambda: 1.0)
    hardware, read = CpuHardware(1 << 20, 1), this_process()
    before, warm = read(), hardware.condition()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(hardware, "_sensed_at", -1e9)  # the sensors are due
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            Path("/proc/self/stat").read_text()
        during, condition = read(), hardware.condition()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        hardware.close()
    assert during.rss_bytes == pytest.approx(before.rss_bytes, rel=0.2)
    assert during.cpu_seconds >= before.cpu_seconds > 0
    assert condition == warm
    assert before.rss_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
