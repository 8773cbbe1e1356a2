"""What a stage's runs move and compute, from what its parts cost: for the accelerator's model and for the planner alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protos.physics.roofline import Load, Work


@dataclass(frozen=True)
class StageCost:
    """See device.proto, StageCost."""

    weight_bytes: int = 0
    read_bytes: int = 0
    macs_per_row: int = 0
    kv_bytes_per_token: int = 0
    head_read_bytes: int = 0
    head_macs_per_row: int = 0
    attention_macs_per_position: int = 0
    embedding_bytes_per_row: int = 0
    activation_bytes_per_row: int = 0
    operators: int = 0
    head_activation_bytes_per_row: int = 0
    head_operators: int = 0


def prefill_work(cost: StageCost, start: int, rows: int) -> Work:
    """Rows at [start, start + rows) of one sequence: the cache before them is read once, their own rows are written and read."""
    seen = rows * start + rows * (rows + 1) // 2  # positions attended, summed over the rows
    return _rows_work(cost, rows, cost.kv_bytes_per_token * (start + 2 * rows), seen)


def decode_work(cost: StageCost, positions: Sequence[int]) -> Work:
    """One row at each position, each of its own sequence."""
    rows = len(positions)
    seen = sum(positions) + rows
    return _rows_work(cost, rows, cost.kv_bytes_per_token * (seen + rows), seen)


def head_work(cost: StageCost, rows: int) -> Work:
    """Final norm and output head for `rows` rows."""
    return Work(
        head=Load(cost.head_read_bytes, rows * cost.head_macs_per_row),
        elementwise=Load(rows * cost.head_activation_bytes_per_row),
        operators=cost.head_operators,
        rows=rows,
    )


def _rows_work(cost: StageCost, rows: int, kv_bytes: int, seen: int) -> Work:
    return Work(
        linear=Load(cost.read_bytes, rows * cost.macs_per_row),
        attention=Load(kv_bytes, seen * cost.attention_macs_per_position),
        elementwise=Load(rows * cost.activation_bytes_per_row),
        embedding=Load(rows * cost.embedding_bytes_per_row),
        operators=cost.operators,
        rows=rows,
    )
