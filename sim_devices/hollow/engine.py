"""A stage that holds nothing: it loads at once, keeps the slots' lengths, and refuses to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from device.engine.engine import Engine, Output, Rows, Runtime, Tokens
from device.engine.prepacked import Prepacked
from device.stage_spec import StageSpec
from protos.dialects import DIALECT
from sim_devices.hollow.hardware import refusal


@dataclass
class HollowGroup:
    lengths: list[int]
    drafted: list[int]

    def free_all(self) -> None:
        self.lengths = [0] * len(self.lengths)

    def swap(self, one: int, other: int, group: HollowGroup | None = None) -> None:
        group = group or self
        self.lengths[one], group.lengths[other] = group.lengths[other], self.lengths[one]

    def copy(self, source: int, target: int, rows: int) -> None:
        self.lengths[target] = rows

    def rows(self, slot: int, start: int, stop: int) -> bytes:
        raise refusal()

    def put(self, slot: int, start: int, count: int, data: bytes) -> None:
        raise refusal()


class HollowEngine:
    """Every run raises InvalidInput, which nobody tries again: nothing that a hollow device says can pass for an answer."""

    def __init__(self, spec: StageSpec) -> None:
        self.groups = [HollowGroup([0] * spec.shape.slots_per_group, [0] * spec.shape.slots_per_group) for _ in range(spec.shape.groups)]

    def prefill(self, group: int, slot: int, start: int, rows: Rows | Tokens) -> Rows:
        raise refusal()

    def decode(self, group: int, slots: Sequence[int], positions: Sequence[int], rows: Rows | Tokens) -> Rows:
        raise refusal()

    def extend(self, group: int, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int], rows: Rows | Tokens) -> Rows:
        raise refusal()


class HollowOutput:
    def logits(self, hidden: Rows) -> Rows:
        raise refusal()

    def normed(self, hidden: Rows) -> Rows:
        raise refusal()


def open_hollow(spec: StageSpec, blob_folder: Path, threads: int, saved: Prepacked | None) -> tuple[Engine, Output | None]:
    """In place of device.engine.opening.open_stage. The graphs are not looked into."""
    return HollowEngine(spec), HollowOutput() if spec.is_head else None


HOLLOW = Runtime(DIALECT, open_hollow)
