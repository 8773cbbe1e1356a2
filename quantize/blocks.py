"""Symmetric block-wise int8: each run of `block_size` weights along K shares one fp32 scale."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protos.errors import InvalidInput

BLOCK_SIZES = (32, 64, 128)
ZERO_POINT = 128
# A block whose largest weight is below this has a subnormal scale, in which w / scale is no longer exact: it is stored as zeros.
SMALLEST_ABSMAX = 127 * float(np.finfo(np.float32).tiny)

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def padded(columns: int, block_size: int) -> int:
    """`columns` rounded up to a multiple of `block_size`."""
    return -(-columns // block_size) * block_size


def check_block_size(block_size: int) -> None:
    """Raises InvalidInput unless this block size is one that we and onnxruntime's kernels share."""
    if block_size not in BLOCK_SIZES:
        raise InvalidInput(f"block size {block_size} is not supported", advice=f"choose one of {', '.join(map(str, BLOCK_SIZES))}")


def check_finite(values: Floats, name: str) -> None:
    """Raises InvalidInput with `name`."""
    if not np.isfinite(values).all():
        raise InvalidInput(f"{name} holds a value that is not finite", advice="the checkpoint is damaged: get it again")


def quantize(weight: Floats, block_size: int, name: str = "weight") -> tuple[Bytes, Floats]:
    """int8 blocks of a float32 [N, K] matrix: (uint8 [N, Kp/b, b], float32 scales [N, Kp/b]), Kp = K padded up to a multiple of b.

    scale = absmax / 127, q = rint(w / scale) in [-127, 127], stored as q + 128, so that |w - dequantized| <= scale / 2 (and a rounding).
    A block of zeros gets scale 0. Raises InvalidInput with `name` when a weight is not finite.
    """
    rows, columns = weight.shape
    width = padded(columns, block_size)
    if width != columns:
        weight = np.concatenate([weight, np.zeros((rows, width - columns), np.float32)], axis=1)
    blocks = weight.reshape(rows, width // block_size, block_size)
    # NaN propagates through both, so one check of the small array covers every weight.
    absmax = np.maximum(blocks.max(axis=-1), -blocks.min(axis=-1))
    check_finite(absmax, name)
    negligible = absmax < SMALLEST_ABSMAX
    scales = np.where(negligible, np.float32(0), absmax / np.float32(127))
    # |w| <= absmax, so w / scale is at most 127 (1 + 2^-23) and rint needs no clipping.
    levels = blocks / np.where(negligible, np.float32(np.inf), scales)[..., None]
    np.rint(levels, out=levels)
    levels += ZERO_POINT
    return levels.astype(np.uint8), scales


def dequantize(quantized: Bytes, scales: Floats, columns: int) -> Floats:
    """float32 [N, columns] of uint8 [N, Kp/b, b] and scales [N, Kp/b]; the padding is cut off."""
    levels = quantized.astype(np.float32)
    levels -= ZERO_POINT
    levels *= scales[..., None]
    return levels.reshape(len(quantized), -1)[:, :columns]
