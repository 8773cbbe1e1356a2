"""How a matrix's weights become few bits: signed levels around a zero point, blocks along K, as MatMulNBits stores them.

Which levels and scale a 4-bit block gets is chosen for the least square error, each column weighed by its importance: what it is
multiplied with in calibration. Measured, with what each step gains: benchmarks/README.md, Quality.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from protos.errors import InvalidInput
from protos.manifest import Quantization
from quantize.blocks import SMALLEST_ABSMAX, Bytes, Floats, check_block_size, check_finite, dequantize, padded, quantize
from quantize.parts import EMBEDDING, HEAD

Bits: TypeAlias = Literal[4, 8]
BITS: tuple[Bits, ...] = get_args(Bits)
# Of a 4-bit block's widest range: what is tried, and the one with the least square error taken.
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)


def checked_bits(bits: int) -> Bits:
    """Raises InvalidInput unless the kernels have weights of so many."""
    for known in BITS:
        if bits == known:
            return known
    raise InvalidInput(f"weights of {bits} bits are not supported", advice=f"choose {' or '.join(map(str, BITS))}")


@dataclass(frozen=True)
class Stored:
    """Of [N, K]: `weight` uint8 [N, blocks, block x bits / 8], `scales` float32 [N, blocks], `zero_points` uint8 [N, blocks x bits / 8,
    rounded up] of an asymmetric scheme. 4-bit values lie two to a byte, the first in the low half."""

    weight: Bytes
    scales: Floats
    zero_points: Bytes | None = None


@dataclass(frozen=True)
class Scheme:
    """A weight is (level - zero point) x scale, levels 0 to 2^bits - 1; the zero point of a symmetric scheme is 2^(bits - 1)."""

    bits: int
    block_size: int
    symmetric: bool = True

    def check(self) -> None:
        """Raises InvalidInput unless the kernels have it."""
        check_block_size(self.block_size)
        checked_bits(self.bits)

    def shapes(self, rows: int, columns: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """(dtype, shape) by the tensor's name, in the order of storing; weight first."""
        blocks = padded(columns, self.block_size) // self.block_size
        shapes = {
            "weight": ("uint8", (rows, blocks, self.block_size * self.bits // 8)),
            "scales": ("float32", (rows, blocks)),
        }
        return shapes if self.symmetric else {**shapes, "zero_points": ("uint8", (rows, -(-blocks * self.bits // 8)))}

    def quantize(self, weight: Floats, name: str = "weight", importance: Floats | None = None) -> Stored:
        """Of float32 [N, K], K padded with zeros. Raises InvalidInput with `name` when a weight is not finite.

        Of a 4-bit block, range and scale are those of the least square error, the columns weighed by `importance` [K].
        """
        if self.bits == 8 and self.symmetric:
            return Stored(*quantize(weight, self.block_size, name))
        rows, columns = weight.shape
        width = padded(columns, self.block_size)
        blocks = np.pad(weight, ((0, 0), (0, width - columns))).reshape(rows, width // self.block_size, self.block_size)
        check_finite(blocks, name)
        weights = np.ones(columns, np.float32) if importance is None else importance
        with np.errstate(over="ignore", invalid="ignore"):  # weights near the largest float32 are refused just below
            levels, scales, zeros = self._fit(blocks, np.pad(weights, (0, width - columns)).reshape(-1, self.block_size))
        check_finite(scales, name)
        if self.bits == 8:
            return Stored(levels, scales, zeros if not self.symmetric else None)
        return Stored(_pack(levels), scales, None if self.symmetric else _pack(zeros))

    def dequantize(self, stored: Stored, columns: int) -> Floats:
        """float32 [N, columns]; the padding is cut off."""
        rows, blocks = stored.scales.shape
        if self.bits == 8 and stored.zero_points is None:
            return dequantize(stored.weight.reshape(rows, blocks, -1), stored.scales, columns)
        packed = stored.weight.reshape(rows, blocks, -1)
        levels: Floats = (_unpack(packed) if self.bits == 4 else packed).astype(np.float32)
        if stored.zero_points is None:
            levels -= np.float32(1 << (self.bits - 1))
        else:
            zeros = _unpack(stored.zero_points)[:, :blocks] if self.bits == 4 else stored.zero_points
            levels -= zeros[..., None]
        levels *= stored.scales[..., None]
        return levels.reshape(rows, -1)[:, :columns]

    def _fit(self, blocks: Floats, importance: Floats) -> tuple[Bytes, Floats, Bytes]:
        """(levels [N, blocks, block], scales [N, blocks], zero points [N, blocks]) with the least square error of those that are tried."""
        best: tuple[npt.NDArray[np.float32], ...] | None = None
        for shrink in _SHRINKS if self.bits == 4 else (1.0,):
            scales, zeros = self._range(blocks, np.float32(shrink))
            inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
            levels = np.rint(blocks * inverse[..., None])
            levels += zeros[..., None]
            np.clip(levels, 0, (1 << self.bits) - 1, out=levels)
            if self.bits == 4:
                scales = _best_scales(blocks, levels - zeros[..., None], importance, scales)
            errors = (np.square((levels - zeros[..., None]) * scales[..., None] - blocks) * importance).sum(axis=-1)
            if best is None:
                best = (levels, scales, zeros, errors)
            else:
                better = errors < best[3]
                for kept, own in zip(best, (levels, scales, zeros, errors), strict=True):
                    kept[better] = own[better]
        assert best is not None
        return best[0].astype(np.uint8), best[1], best[2].astype(np.uint8)

    def _range(self, blocks: Floats, shrink: np.float32) -> tuple[Floats, Floats]:
        """Scales and zero points of blocks whose range is narrowed by `shrink`."""
        high, low = blocks.max(axis=-1), blocks.min(axis=-1)
        negligible = np.maximum(high, -low) < SMALLEST_ABSMAX
        if self.symmetric:
            # The weight of largest magnitude takes the level that one sign has more: all 2^bits levels are used, a scale may be negative.
            middle = 1 << (self.bits - 1)
            scales = np.where(high > -low, high, low) * shrink / np.float32(-middle)
            zeros = np.full_like(scales, middle)
        else:
            high, low = np.maximum(high, 0) * shrink, np.minimum(low, 0) * shrink
            scales = (high - low) / np.float32((1 << self.bits) - 1)
            zeros = np.rint(np.divide(-low, scales, out=np.zeros_like(low), where=~negligible))
        return np.where(negligible, np.float32(0), scales), zeros


def scheme_of(quantization: Quantization, part: str) -> Scheme:
    """Embedding and output head are few bytes of a large model, and most of a small one's quality: they stay at `outer_bits`."""
    outer = part in (EMBEDDING, HEAD)
    return Scheme(quantization.outer_bits if outer else quantization.bits, quantization.block_size, outer or quantization.symmetric)


def _best_scales(blocks: Floats, steps: Floats, importance: Floats, otherwise: Floats) -> Floats:
    """[N, blocks]: least squares of `blocks` by scale x `steps`, weighed; `otherwise` where all steps are 0."""
    weighed = steps * importance
    squares = (weighed * steps).sum(axis=-1)
    best: Floats = np.divide((weighed * blocks).sum(axis=-1), squares, out=otherwise.copy(), where=squares > 0)
    return best


def _pack(values: Bytes) -> Bytes:
    """Two to a byte along the last axis, the first in the low half; an odd last one is alone."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    packed: Bytes = np.bitwise_or(values[..., 0::2], np.left_shift(values[..., 1::2], 4), dtype=np.uint8)
    return packed


def _unpack(packed: Bytes) -> Bytes:
    halves: Bytes = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1).reshape(*packed.shape[:-1], -1)
    return halves
