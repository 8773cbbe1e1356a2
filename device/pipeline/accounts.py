"""What runs cost: the device's work, a stage's counters, each sequence's share, and the accelerator's modelled time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

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
    rejected_rows: int = 0  # of decode_rows
    joules_rejected: float = 0.0
    _run: tuple[int, int, float] | None = None  # its last: first position, rows, joules; which of its drafts held, the next one tells

    def ran(self, report: RunReport, start: int, rows: int, of: int) -> None:
        """Add its share of a decode run with drafts: `rows` rows from position `start` on, of `of` of all sequences."""
        self.add(report, rows / of)
        self.decode_rows += rows
        self._run = (start, rows, (report.joules or 0.0) * rows / of)

    def settled(self, length: int) -> tuple[int, int]:
        """So many rows are of its tokens: of its last run's drafts, how many held and how many did not, where it is asked first."""
        if self._run is None:
            return 0, 0
        (start, rows, joules), self._run = self._run, None
        rejected = min(max(0, start + rows - length), rows - 1)
        self.rejected_rows += rejected
        self.joules_rejected += joules * rejected / rows
        return rows - 1 - rejected, rejected

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
    rejected_tokens: int = 0  # of decode_tokens
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

    def took(self, drafts: int) -> None:
        """So many rows that were drafts when they ran gave a token each."""
        with self._adding:
            self._total = replace(self._total, answer_tokens=self._total.answer_tokens + drafts)

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
