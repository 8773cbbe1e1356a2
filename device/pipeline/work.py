"""What a microbatch costs a stage: bytes moved and multiply-accumulates, for the accelerator's model."""

from __future__ import annotations

from collections.abc import Sequence

from device.hardware import Work
from device.stage_spec import Cost


def prefill_work(cost: Cost, start: int, rows: int) -> Work:
    """Rows at [start, start + rows) of one sequence: the cache before them is read once, their own rows are written."""
    seen = rows * start + rows * (rows + 1) // 2  # positions attended, summed over the rows
    return Work(
        weight_bytes=cost.read_bytes,
        kv_bytes=cost.kv_bytes_per_token * (start + 2 * rows),
        macs=rows * cost.macs_per_row + seen * cost.attention_macs_per_position,
        rows=rows,
    )


def decode_work(cost: Cost, positions: Sequence[int]) -> Work:
    """One row at each position, each of its own sequence."""
    rows = len(positions)
    seen = sum(positions) + rows
    return Work(
        weight_bytes=cost.read_bytes,
        kv_bytes=cost.kv_bytes_per_token * (seen + rows),
        macs=rows * cost.macs_per_row + seen * cost.attention_macs_per_position,
        rows=rows,
    )


def head_work(cost: Cost, rows: int) -> Work:
    """Final norm and output head for `rows` rows."""
    return Work(weight_bytes=cost.head_read_bytes, kv_bytes=0, macs=rows * cost.head_macs_per_row, rows=rows)


def together(first: Work, second: Work) -> Work:
    """Two computations in one run."""
    return Work(first.weight_bytes + second.weight_bytes, first.kv_bytes + second.kv_bytes, first.macs + second.macs, first.rows)
