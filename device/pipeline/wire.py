"""Hidden rows as bytes between stages."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protos.dtypes import WIRE_BLOCK, WireDtype, row_bytes, wire_blocks
from protos.errors import InvalidInput

Rows = npt.NDArray[np.float32]  # [rows, hidden]

_LARGEST_HALF = float(np.finfo(np.float16).max)
# Below this a block's scale is subnormal, in which x / scale is no longer exact: it travels as zeros.
_SMALLEST_ABSMAX = 127 * float(np.finfo(np.float32).tiny)


def encode(rows: Rows, dtype: WireDtype) -> bytes:
    """Each row on its own, so a row's bytes do not depend on its company. What is lost: see pipeline.proto, Microbatch.hidden."""
    match dtype:
        case "float32":
            return rows.astype("<f4", copy=False).tobytes()
        case "float16":
            return np.clip(rows, -_LARGEST_HALF, _LARGEST_HALF).astype("<f2").tobytes()
        case "int8":
            blocks = _blocks(rows)
            absmax = np.abs(blocks).max(axis=-1, keepdims=True)
            scales = np.where(absmax < _SMALLEST_ABSMAX, np.float32(0), absmax / np.float32(127))
            with np.errstate(invalid="ignore"):  # what is not finite has a scale that is not, and arrives as NaN
                # |x| <= absmax, so x / scale is at most 127 (1 + 2^-23) and rint needs no clipping.
                levels = np.rint(blocks / np.where(scales == 0, np.float32(np.inf), scales)).astype(np.int8)
            return levels.reshape(len(rows), blocks.shape[1] * WIRE_BLOCK)[:, : rows.shape[1]].tobytes() + scales.astype("<f4").tobytes()


def decode(data: bytes, rows: int, hidden_size: int, dtype: WireDtype) -> Rows:
    """float32 [rows, hidden_size] of `encode`'s bytes; read-only where they are fp32 already. Raises InvalidInput for another size."""
    if len(data) != rows * row_bytes(hidden_size, dtype):
        raise InvalidInput(f"{len(data)} bytes of hidden rows, not {rows} x {hidden_size} {dtype}")
    match dtype:
        case "float32":
            return np.frombuffer(data, "<f4").reshape(rows, hidden_size)
        case "float16":
            return np.frombuffer(data, "<f2").reshape(rows, hidden_size).astype(np.float32)
        case "int8":
            count = rows * hidden_size
            levels = np.frombuffer(data, np.int8, count).reshape(rows, hidden_size).astype(np.float32)
            scales = np.frombuffer(data, "<f4", offset=count).reshape(rows, wire_blocks(hidden_size))
            with np.errstate(invalid="ignore"):
                levels *= np.repeat(scales, WIRE_BLOCK, axis=1)[:, :hidden_size]
            return levels


def _blocks(rows: Rows) -> Rows:
    """[rows, blocks, WIRE_BLOCK], a short last block filled with zeros."""
    count, size = rows.shape
    blocks = wire_blocks(size)
    if size != blocks * WIRE_BLOCK:
        rows = np.pad(rows, ((0, 0), (0, blocks * WIRE_BLOCK - size)))
    return rows.reshape(count, blocks, WIRE_BLOCK)
