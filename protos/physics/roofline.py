"""What an accelerator's figures mean: the seconds and joules of a run, by class of operator.

The one formula of the device models and of the planner. For each class the longer of moving its bytes and doing its arithmetic, summed,
plus what starting a run and its operators costs (Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009):

    t = launch + operators x operator_seconds + sum over classes of max(bytes / bytes_per_second, macs / macs_per_second)
    E = idle_watts t + DRAM bytes e_dram + on-chip bytes e_chip + MACs e_mac + link bytes e_link

and where E / t would exceed the power cap, t is stretched until it does not, as a board's power limit does by lowering the clock.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Load:
    """Of the operators of one class in one run."""

    bytes: int = 0
    macs: int = 0

    def __add__(self, other: Load) -> Load:
        return Load(self.bytes + other.bytes, self.macs + other.macs)


@dataclass(frozen=True)
class Work:
    """What one run moves and computes. Bytes are read from DRAM, but for `elementwise` and `link_bytes`."""

    linear: Load = Load()  # the layers' matrices, read once a run
    attention: Load = Load()  # over the KV cache, read and written
    elementwise: Load = Load()  # activations between operators, on the chip
    head: Load = Load()  # final norm and output head
    embedding: Load = Load()  # gathered rows
    operators: int = 0
    rows: int = 0
    link_bytes: int = 0  # hidden rows sent on; their time is the link's

    def __add__(self, other: Work) -> Work:
        """Two computations in one run, on the same rows or on others."""
        merged = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self) if one.name != "rows"}
        return Work(**merged, rows=max(self.rows, other.rows))

    @property
    def dram_bytes(self) -> int:
        return self.linear.bytes + self.attention.bytes + self.head.bytes + self.embedding.bytes

    @property
    def macs(self) -> int:
        return self.linear.macs + self.attention.macs + self.elementwise.macs + self.head.macs + self.embedding.macs


@dataclass(frozen=True)
class Figures:
    """Of an accelerator, effective: after efficiency. 0 is unknown, and counts as free. See device.proto, Accelerator."""

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
    def tells_energy(self) -> bool:
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


def times(figures: Figures, work: Work, runs: int = 1) -> Times:
    """Of `work` done in `runs` runs."""
    linear = (figures.linear_bytes_per_second, figures.linear_macs_per_second)
    uncapped = Times(
        launch=runs * figures.launch_seconds + work.operators * figures.operator_seconds,
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
    """On top of the idle power."""
    return (
        work.dram_bytes * figures.joules_per_byte
        + work.elementwise.bytes * figures.joules_per_chip_byte
        + work.macs * figures.joules_per_mac
        + work.link_bytes * figures.joules_per_link_byte
    )


def _roof(load: Load, bytes_per_second: float, macs_per_second: float) -> float:
    moving = load.bytes / bytes_per_second if bytes_per_second else 0.0
    computing = load.macs / macs_per_second if macs_per_second else 0.0
    return max(moving, computing)
