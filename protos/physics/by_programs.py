"""The timing model of chips that run compiled programs: what a run's programs take."""

from __future__ import annotations

from dataclasses import dataclass

from protos.errors import InvalidInput
from protos.physics.programs import SPENT, Programs, Room
from protos.physics.timing import Decode, Estimate, Prefill, StageRun


@dataclass(frozen=True)
class ByPrograms:
    """Implements timing.TimingModel on a device, by the programs that each run brings with it (`StageRun.programs`)."""

    idle_watts: float
    launch_seconds: float
    joules_per_link_byte: float

    def estimate(self, run: StageRun) -> Estimate:
        """Raises InvalidInput for a run of a stage whose programs nobody told of."""
        if (run.body or run.head_rows) and run.programs is None:
            raise InvalidInput("this device is timed by programs, and was told of none for its stage", advice="its coordinator is older")
        return estimate(run, run.programs, self.launch_seconds, self.joules_per_link_byte)


def estimate(run: StageRun, programs: Programs | None, launch_seconds: float, joules_per_link_byte: float) -> Estimate:
    """Of a run by these programs, of which each begins with one launch."""
    seconds, joules = [0.0] * len(SPENT), run.link_bytes * joules_per_link_byte
    launches = float(run.launches)
    used = [programs.layers(wanted(run.body))] if programs and run.body else []
    used += [programs.head(run.head_rows)] if programs and run.head_rows else []
    for times, program in used:
        launches += times - 1
        joules += times * sum(program.joules)
        for place, value in enumerate(program.seconds):
            seconds[place] += times * value
    seconds[0] += launches * launch_seconds
    return Estimate(sum(seconds), joules, dict(zip(SPENT, seconds, strict=True)))


def wanted(body: Prefill | Decode) -> Room:
    match body:
        case Prefill(start, rows):
            return Room(1, rows, start + rows)
        case Decode(positions):
            return Room(len(positions), 1, max(positions) + 1)
