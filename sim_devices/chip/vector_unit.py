"""What the vector unit of a simulated chip makes of float32 rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Levels = npt.NDArray[np.int8]
NEVER = np.float32(-1e30)
_LEVELS = np.float32(127)


def quantize(rows: Floats, block: int) -> tuple[Levels, Floats]:
    """(int8 [rows, blocks, block], scales [rows, blocks]) as MatMulNBits of accuracy level 4 does: scale = absmax / 127, level = x times
    127 / absmax, rounded to even. Columns are padded with zeros."""
    count, columns = rows.shape
    blocks = -(-columns // block)
    if blocks * block != columns:
        rows = np.concatenate([rows, np.zeros((count, blocks * block - columns), np.float32)], axis=1)
    pieces = rows.reshape(count, blocks, block)
    absmax = np.abs(pieces).max(axis=-1)
    inverse = np.divide(_LEVELS, absmax, out=np.zeros_like(absmax), where=absmax > 0)
    return np.rint(pieces * inverse[..., None]).astype(np.int8), absmax / _LEVELS


def norm(rows: Floats, gain: Floats, epsilon: float) -> Floats:
    mean: Floats = np.square(rows).mean(axis=-1, keepdims=True, dtype=np.float32)
    normed: Floats = rows * (1 / np.sqrt(mean + np.float32(epsilon))).astype(np.float32) * gain
    return normed


def _sigmoid(a: Floats) -> Floats:
    with np.errstate(over="ignore"):
        found: Floats = (1 / (1 + np.exp(-a))).astype(np.float32)
    return found


def _gelu(a: Floats) -> Floats:
    erf = np.vectorize(math.erf, otypes=[np.float64])(a.astype(np.float64) / math.sqrt(2.0))
    found: Floats = (0.5 * a * (1 + erf)).astype(np.float32)
    return found


# Of one operand.
ONE: dict[str, Callable[[Floats, np.float32], Floats]] = {
    "copy": lambda a, _: a,
    "scale": lambda a, immediate: a * immediate,
    "silu": lambda a, _: a * _sigmoid(a),
    "gelu": lambda a, _: _gelu(a),
    "sigmoid": lambda a, _: _sigmoid(a),
    "rsqrt": lambda a, immediate: (1 / np.sqrt(a + immediate)).astype(np.float32),
    "reciprocal": lambda a, immediate: (1 / (a + immediate)).astype(np.float32),
}
# Of two.
TWO: dict[str, Callable[[Floats, Floats], Floats]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "exp": lambda a, b: np.exp(a - b),
}
# Of each row, one element.
ROWS: dict[str, Callable[[Floats], Floats]] = {
    "max": lambda a: a.max(axis=-1, keepdims=True),
    "sum": lambda a: a.sum(axis=-1, keepdims=True, dtype=np.float32),
    "mean": lambda a: a.mean(axis=-1, keepdims=True, dtype=np.float32),
    "mean_square": lambda a: np.square(a).mean(axis=-1, keepdims=True, dtype=np.float32),
}


def turn(a: Floats, angles: Floats, *, halves: bool) -> Floats:
    """Rows of pairs by [cosines, sines], which are as many as pairs."""
    half = a.shape[1] // 2
    first, second = (a[:, :half], a[:, half:]) if halves else (a[:, 0::2], a[:, 1::2])
    cos, sin = angles[..., :half], angles[..., half:]
    turned = np.empty_like(a)
    ends = (turned[:, :half], turned[:, half:]) if halves else (turned[:, 0::2], turned[:, 1::2])
    ends[0][...] = first * cos - second * sin
    ends[1][...] = second * cos + first * sin
    return turned


def top(a: Floats, count: int) -> npt.NDArray[np.int32]:
    """Places of the largest, equal ones by their places."""
    return np.argsort(-a, axis=-1, kind="stable")[:, :count].astype(np.int32)


def visible(rows: int, columns: int, first: int, per_token: int, *, own: bool, causal: bool, position: int) -> npt.NDArray[np.bool_]:
    """[rows, columns]: of a tile whose columns begin with position (or row, of the `own` ones) `first`, which each row sees.

    `per_token` rows are of one token. Of the cache all that it holds: `position` positions.
    """
    columns_at = first + np.arange(columns)[None, :]
    if not own:
        return np.broadcast_to(columns_at < position, (rows, columns))
    tokens = np.arange(rows)[:, None] // per_token
    return columns_at <= tokens if causal else np.ones((rows, columns), np.bool_)
