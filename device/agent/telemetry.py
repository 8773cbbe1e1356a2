"""What the device counts, as samples: monotonic counters, never another machine's clock."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

from device.agent.host import Loaded, StageHost
from device.hardware import Hardware
from device.memory import cpu_seconds, held_bytes, resident_bytes
from device.pipeline.doubts import Doubts
from protos.elapsed import elapsed
from protos.ids import DeviceId
from protos.v1 import telemetry_pb2 as pb


@dataclass(frozen=True)
class ProcessReading:
    """What the agent itself takes of its machine."""

    rss_bytes: int
    cpu_seconds: float
    held_bytes: int | None = None  # that no file backs, beyond what it held at first; None: nothing tells


def this_process() -> Callable[[], ProcessReading]:
    before = held_bytes()

    def read() -> ProcessReading:
        held = held_bytes()
        beyond = None if held is None or before is None else max(0, held - before)
        return ProcessReading(resident_bytes(), cpu_seconds(), beyond)

    return read


class TelemetrySampler:
    """Makes samples of one boot of the agent."""

    def __init__(
        self,
        device: DeviceId,
        hardware: Hardware,
        host: StageHost,
        *,
        boot_id: str = "",
        process: Callable[[], ProcessReading] | None = None,
        clock: Callable[[], float] = elapsed,
        storage_problem: Callable[[], str] = lambda: "",
    ) -> None:
        """`boot_id`: a fresh one unless given; `clock` in seconds, monotonic, which goes on while the machine sleeps; `storage_problem`
        as of Blobs."""
        self._storage_problem = storage_problem
        self.boot_id = boot_id or uuid.uuid4().hex
        self._device = device
        self._hardware = hardware
        self._host = host
        self._clock = clock
        self._started = clock()
        self._index = 0
        self._process = process or this_process()
        self._before = (0.0, 0.0)  # joules, seconds at the sample before

    def held_bytes(self) -> int | None:
        """Memory that the stages really take, as far as it can be told."""
        return self._process().held_bytes

    def sample(self) -> pb.TelemetrySample:
        process, condition = self._process(), self._hardware.condition()
        sample = pb.TelemetrySample(
            device_id=self._device,
            boot_id=self.boot_id,
            index=self._index,
            uptime_seconds=self._clock() - self._started,
            gauges=pb.Gauges(
                temperature_celsius=condition.temperature_celsius,
                throttled=condition.throttled,
                battery_fraction=condition.battery_fraction,
                memory_used_bytes=self._host.memory_used_bytes,
                process_rss_bytes=process.rss_bytes,
                process_cpu_seconds=process.cpu_seconds,
                memory_held_bytes=process.held_bytes,
                storage_problem=self._storage_problem(),
            ),
            pipelines=[_counters(loaded, self._host.doubts) for loaded in self._host.loaded],
            work=pb.WorkCounter(**vars(self._host.work.total)),
        )
        reading = self._hardware.energy()
        if reading.busy_joules is not None:
            idle = reading.idle_joules or 0.0
            sample.energy.source = self._hardware.info.energy_source
            sample.energy.busy_joules, sample.energy.idle_joules = reading.busy_joules, idle
            joules, seconds = self._before
            self._before = (reading.busy_joules + idle, reading.elapsed_seconds)
            if reading.elapsed_seconds > seconds:
                sample.gauges.power_watts = (self._before[0] - joules) / (reading.elapsed_seconds - seconds)
        self._index += 1
        return sample


def _counters(loaded: Loaded, doubts: Doubts) -> pb.PipelineCounters:
    spec, counters = loaded.stage.spec, loaded.stage.counters
    return pb.PipelineCounters(
        pipeline_id=spec.pipeline,
        manifest_digest=spec.manifest,
        prefill_tokens=counters.prefill_tokens,
        decode_tokens=counters.decode_tokens,
        rejected_tokens=counters.rejected_tokens,
        steps=counters.steps,
        busy_seconds=counters.busy_seconds,
        modelled_busy_seconds=counters.modelled_busy_seconds,
        busy_joules=counters.busy_joules,
        sent_bytes=counters.sent_bytes,
        open_sequences=loaded.stage.open_sequences,
        silent_neighbours=doubts.of(spec.pipeline),
    )
