"""What runs cost: the device's work, a stage's counters, each sequence's share, and the accelerator's modelled time."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from device.hardware import RunReport


class ModelledClock:
    """When the device's accelerator is free again, in modelled seconds since the agent started; one for all stages of a device."""

    def __init__(self) -> None:
        self.free_at = 0.0

    def catch_up(self, clock: float) -> None:
        """Other devices' clocks run from other starts: this one is at least at `clock` from now on."""
        self.free_at = max(self.free_at, clock)

    def occupy(self, ready_at: float, report: RunReport) -> float:
        """The modelled time at which a run that could start at `ready_at` has ended. A real device's runs count at their wall time."""
        seconds = report.wall_seconds if report.modelled_seconds is None else report.modelled_seconds
        self.free_at = max(self.free_at, ready_at) + seconds
        return self.free_at


@dataclass
class Usage:
    """Of one sequence on this stage."""

    number: int
    key: bytes = b""  # of its request: see pipeline.proto, Submit
    busy_seconds: float = 0.0
    modelled_seconds: float | None = None
    joules: float | None = None
    prefill_rows: int = 0
    decode_rows: int = 0

    def add(self, report: RunReport, share: float) -> None:
        """Add this sequence's share of a run."""
        self.busy_seconds += report.wall_seconds * share
        if report.modelled_seconds is not None:
            self.modelled_seconds = (self.modelled_seconds or 0.0) + report.modelled_seconds * share
        if report.joules is not None:
            self.joules = (self.joules or 0.0) + report.joules * share


@dataclass
class StageCounters:
    """Monotonic, since the stage was loaded. See telemetry.proto, PipelineCounters."""

    prefill_tokens: int = 0
    decode_tokens: int = 0
    steps: int = 0
    busy_seconds: float = 0.0
    modelled_busy_seconds: float = 0.0
    busy_joules: float = 0.0
    sent_bytes: int = 0

    def add(self, report: RunReport) -> None:
        self.steps += 1
        self.busy_seconds += report.wall_seconds
        self.modelled_busy_seconds += report.modelled_seconds or 0.0
        self.busy_joules += report.joules or 0.0


@dataclass(frozen=True)
class Work:
    """What runs have computed and took. See telemetry.proto, WorkCounter."""

    prefill_tokens: int = 0
    decode_tokens: int = 0
    answer_tokens: int = 0
    busy_seconds: float = 0.0
    modelled_busy_seconds: float = 0.0
    busy_joules: float = 0.0


class WorkCounter:
    """The sum over all runs of a device, from any thread: joules and the tokens they were spent on enter it together, or not at all."""

    def __init__(self) -> None:
        self._total = Work()
        self._adding = threading.Lock()

    @property
    def total(self) -> Work:
        return self._total

    def add(self, report: RunReport, *, prefill_tokens: int = 0, decode_tokens: int = 0, answer_tokens: int = 0) -> None:
        with self._adding:
            before = self._total
            self._total = Work(
                prefill_tokens=before.prefill_tokens + prefill_tokens,
                decode_tokens=before.decode_tokens + decode_tokens,
                answer_tokens=before.answer_tokens + answer_tokens,
                busy_seconds=before.busy_seconds + report.wall_seconds,
                modelled_busy_seconds=before.modelled_busy_seconds + (report.modelled_seconds or 0.0),
                busy_joules=before.busy_joules + (report.joules or 0.0),
            )
