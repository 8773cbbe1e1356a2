"""The roofline: a timing model that takes seconds and joules of a run from an accelerator's figures.

For each class of operators the longer of moving its bytes and doing its arithmetic, summed, plus what starting a run and its operators
costs (Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009):

    t = launches x launch_seconds + operators x operator_seconds + sum over classes of max(bytes / bytes_per_second, macs / macs_per_second)
    E = idle_watts t + DRAM bytes e_dram + on-chip bytes e_chip + MACs e_mac + link bytes e_link

and where E / t would exceed the power cap, t is stretched until it does not, as a board's power limit does by lowering the clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from protos.physics.timing import Estimate, StageRun
from protos.physics.work import OperatorLoad, Work, work_of


@dataclass(frozen=True)
class Figures:
    """Of an accelerator, effective: after efficiency, in units of SI. 0 is unknown, and counts as free. See device.proto, Figures."""

    linear_bytes_per_second: float = 0.0
    linear_macs_per_second: float = 0.0
    attention_bytes_per_second: float = 0.0
    attention_macs_per_second: float = 0.0
    chip_bytes_per_second: float = 0.0
    launch_seconds: float = 0.0  # of each run
    operator_seconds: float = 0.0  # of each operator in it
    idle_watts: float = 0.0
    cap_watts: float = 0.0
    joules_per_byte: float = 0.0  # of DRAM
    joules_per_chip_byte: float = 0.0
    joules_per_mac: float = 0.0
    joules_per_link_byte: float = 0.0

    @property
    def has_energy(self) -> bool:
        return self.idle_watts > 0 and self.joules_per_byte > 0


@dataclass(frozen=True)
class Times:
    """Seconds of a run, by what they go to. `capped` is what the power cap adds."""

    launch: float
    linear: float
    attention: float
    elementwise: float
    head: float
    embedding: float
    capped: float = 0.0

    @property
    def seconds(self) -> float:
        return self.launch + self.linear + self.attention + self.elementwise + self.head + self.embedding + self.capped


@dataclass(frozen=True)
class Roofline:
    """Implements timing.TimingModel by these figures. `breakdown` has the fields of Times."""

    figures: Figures

    @property
    def idle_watts(self) -> float:
        return self.figures.idle_watts

    def estimate(self, run: StageRun) -> Estimate:
        work = work_of(run)
        spent = times(self.figures, work, run.launches)
        return Estimate(spent.seconds, dynamic_joules(self.figures, work), vars(spent))


def times(figures: Figures, work: Work, launches: int = 1) -> Times:
    """Seconds of `work` for which the accelerator is started `launches` times. Others ask Roofline."""
    linear = (figures.linear_bytes_per_second, figures.linear_macs_per_second)
    uncapped = Times(
        launch=launches * figures.launch_seconds + work.operators * figures.operator_seconds,
        linear=_roof(work.linear, *linear),
        attention=_roof(work.attention, figures.attention_bytes_per_second, figures.attention_macs_per_second),
        elementwise=_roof(work.elementwise, figures.chip_bytes_per_second, 0.0),
        head=_roof(work.head, *linear),
        embedding=_roof(work.embedding, *linear),
    )
    room = figures.cap_watts - figures.idle_watts
    if room <= 0:
        return uncapped
    longer = max(0.0, dynamic_joules(figures, work) / room - uncapped.seconds)
    return Times(**{**vars(uncapped), "capped": longer})


def dynamic_joules(figures: Figures, work: Work) -> float:
    """Joules of `work` on top of the idle power. Others ask Roofline."""
    return (
        work.dram_bytes * figures.joules_per_byte
        + work.elementwise.bytes * figures.joules_per_chip_byte
        + work.macs * figures.joules_per_mac
        + work.link_bytes * figures.joules_per_link_byte
    )


def _roof(load: OperatorLoad, bytes_per_second: float, macs_per_second: float) -> float:
    moving = load.bytes / bytes_per_second if bytes_per_second else 0.0
    computing = load.macs / macs_per_second if macs_per_second else 0.0
    return max(moving, computing)
