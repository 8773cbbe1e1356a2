"""What computes a stage, and how it is opened: the seam behind which a stage that computes nothing may stand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from device.engine.golden import check_head, check_stage
from device.engine.prepacked import Prepacked
from device.engine.stage import OutputHead, Rows, StageEngine, Tokens
from device.stage_spec import StageSpec


class Group(Protocol):
    """One slot group's cache; see SlotGroup."""

    lengths: list[int]

    def free_all(self) -> None: ...
    def swap(self, one: int, other: int, group: Self | None = None) -> None: ...
    def copy(self, source: int, target: int, rows: int) -> None: ...
    def rows(self, slot: int, start: int, stop: int) -> bytes: ...
    def put(self, slot: int, start: int, count: int, data: bytes) -> None: ...


class Engine(Protocol):
    """A stage's layers with their cache; see StageEngine."""

    @property
    def groups(self) -> Sequence[Group]: ...

    def prefill(self, group: int, slot: int, start: int, rows: Rows | Tokens) -> Rows: ...
    def decode(self, group: int, slots: Sequence[int], positions: Sequence[int], rows: Rows | Tokens) -> Rows: ...


class Output(Protocol):
    """Final norm and output head; see OutputHead."""

    def logits(self, hidden: Rows) -> Rows: ...


class OpenStage(Protocol):
    """Blocks: call it in an executor. Raises InvalidInput for graphs that do not fit the stage, Corrupt."""

    def __call__(self, spec: StageSpec, blob_folder: Path, threads: int, saved: Prepacked | None) -> tuple[Engine, Output | None]: ...


def open_stage(spec: StageSpec, blob_folder: Path, threads: int, saved: Prepacked | None) -> tuple[Engine, Output | None]:
    """By onnxruntime; the output head is None on all stages but the first. Raises Corrupt for a stage that fails its golden check."""
    # The head first: while its one large matrix is packed it is there three times, which shows less before the layers are there.
    output = OutputHead(spec, blob_folder, threads, saved.head if saved else None) if spec.is_head else None
    if output:
        check_head(spec, output)
    engine = StageEngine(spec, blob_folder, threads, saved.stage if saved else None)
    check_stage(spec, engine, blob_folder, threads)
    return engine, output
