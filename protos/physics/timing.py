"""The seam to an accelerator's timing model: what a run of a stage is asked by, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from protos.dtypes import KvDtype
from protos.ids import Digest
from protos.physics.costs import StageCost
from protos.physics.programs import Programs


@dataclass(frozen=True)
class Prefill:
    """`rows` rows of one sequence, at positions [start, start + rows): `start` positions are in its cache already."""

    start: int
    rows: int


@dataclass(frozen=True)
class Decode:
    """One row at each of `positions`, each of its own sequence with as many positions in its cache."""

    positions: tuple[int, ...]


@dataclass(frozen=True)
class StageIdentity:
    """Which stage runs: these parts of this model, over a cache of this type. Equal ones compute the same, whatever device they are on."""

    manifest_digest: Digest
    parts: tuple[str, ...]
    kv_dtype: KvDtype


@dataclass(frozen=True)
class StageRun:
    """One run of a stage, as it is known before it runs.

    `stage` says which it is, for models that time a program of its own; None where no stage is meant: a bare start of the accelerator, a
    model known by its shape alone. `cost` is the stage's. `body` are the rows that go through its layers, None where only the output head
    runs; `head_rows` rows go through final norm and output head behind them. `link_bytes` are sent to the next stage: they cost energy
    here, their time is the link's. `launches` is how often the accelerator is started for all this: 0 asks for a share of a longer run
    whose start is counted elsewhere, 2 for layers and output head that run one after the other. `programs` are the stage's on a device that
    was told of them.
    """

    cost: StageCost
    body: Prefill | Decode | None = None
    head_rows: int = 0
    link_bytes: int = 0
    launches: int = 1
    stage: StageIdentity | None = None
    programs: Programs | None = None


@dataclass(frozen=True)
class Estimate:
    """Of a run at full speed: `seconds`, and `joules` on top of the idle power. `breakdown` is the seconds by what they go to, in the
    model's own words; they add up to `seconds`."""

    seconds: float
    joules: float
    breakdown: Mapping[str, float]


class TimingModel(Protocol):
    """Time and energy of any run of any stage on one accelerator, which is not throttled.

    Simulated devices, the planner and predictions ask this and nothing else, so one model answers all of them alike. Implementations are
    immutable, compare and hash by value, and are pure: the planner asks in any order and any number of times.

    The planner adds up shares (`launches` 0) of single layers to compare cuts, and then asks for the stages it chose as wholes. Shares
    that do not quite add up to the whole cost it the best cut, not the right figures.
    """

    @property
    def idle_watts(self) -> float:
        """Power that is drawn whether anything runs or not."""
        ...

    def estimate(self, run: StageRun) -> Estimate: ...
