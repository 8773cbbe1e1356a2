"""What computes a stage, and how it is opened: an interface, behind which a stage may be computed by other means, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from device.engine.prepacked import Prepacked
from device.stage_spec import StageSpec

Rows: TypeAlias = npt.NDArray[np.float32]  # [rows, hidden]
Tokens: TypeAlias = npt.NDArray[np.int64]  # [rows], or [rows, 3] with the two positions of a model that has learned ones


class Group(Protocol):
    """One slot group's cache; see SlotGroup."""

    lengths: list[int]  # rows that stay
    drafted: list[int]  # rows behind them, each of which a run may overwrite

    def free_all(self) -> None: ...
    def swap(self, one: int, other: int, group: Self | None = None) -> None: ...
    def copy(self, source: int, target: int, rows: int) -> None: ...
    def rows(self, slot: int, start: int, stop: int) -> bytes: ...
    def put(self, slot: int, start: int, count: int, data: bytes) -> None: ...


class Engine(Protocol):
    """A stage's layers with their cache. One run at a time. A row's result depends on no row beside it in a run."""

    @property
    def groups(self) -> Sequence[Group]: ...

    def prefill(self, group: int, slot: int, start: int, rows: Rows | Tokens) -> Rows:
        """Rows at positions [start, start + n) of one slot, which holds `start`; hidden [n, hidden]. Raises InvalidInput elsewhere."""
        ...

    def decode(self, group: int, slots: Sequence[int], positions: Sequence[int], rows: Rows | Tokens) -> Rows:
        """One row for each of `slots` (ascending) at its position, which is as many as it holds; hidden [len(slots), hidden]."""
        ...

    def extend(self, group: int, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int], rows: Rows | Tokens) -> Rows:
        """`counts[i]` rows for each of `slots` (ascending) at positions from `starts[i]` on, where it holds that many, drafts included;
        hidden [sum of counts, hidden], with the bits of a prefill. The first row of each stays, the others are drafts."""
        ...


class Output(Protocol):
    """Final norm and output head."""

    def logits(self, hidden: Rows) -> Rows:
        """[n, vocab] of hidden [n, hidden]; what is given may be overwritten by the next call."""
        ...

    def normed(self, hidden: Rows) -> Rows:
        """hidden [n, hidden] behind the final norm, of a stage whose spec has a `norm_graph`."""
        ...


class OpenStage(Protocol):
    """Blocks: call it in an executor. Raises InvalidInput for graphs that do not fit the stage, Corrupt."""

    def __call__(self, spec: StageSpec, blob_folder: Path, threads: int, saved: Prepacked | None) -> tuple[Engine, Output | None]: ...


@dataclass(frozen=True)
class Runtime:
    """What computes stages that are written in `dialect` (protos/dialects.py); `prepacks`: what it makes of weights may be saved."""

    dialect: str
    open_stage: OpenStage
    prepacks: bool = False
