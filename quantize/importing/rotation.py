"""Random orthogonal matrices of any order that multiply in about n log n, the same to the bit on every machine."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from quantize.blocks import Floats

# An odd factor of the order beyond this is left unmixed: a product costs 2 x it per weight. Real hidden sizes have 1 to 45.
_LARGEST_MIXING = 63
# 1 MB of fp32 at a time: a chunk and its spare stay in a cache through all passes (the fastest of 32 Ki to 512 Ki weights).
_CHUNK_ELEMENTS = 1 << 18


@dataclass(frozen=True)
class Rotation:
    """Q = diag(signs) (mixing ⊗ H), with H the Walsh-Hadamard matrix of order 2^k in natural (Sylvester) order and n = m 2^k.

    `signs` [n] are ±2^(-k/2), which normalizes H; `mixing` [m, m] is orthogonal. Products are sums and products of fp32 in a fixed
    order, without BLAS, so that one checkpoint gives one artifact (one digest) whatever the processor and its threads.
    """

    signs: Floats
    mixing: Floats

    @property
    def order(self) -> int:
        return len(self.signs)

    def rotate_rows(self, matrix: Floats) -> Floats:
        """matrix @ Q of [rows, n], as a new array."""
        rows, order = matrix.shape
        result = np.empty((rows, order), np.float32)
        step = max(1, _CHUNK_ELEMENTS // order)
        for start in range(0, rows, step):
            chunk = slice(start, min(start + step, rows))
            result[chunk] = self._transposed_product(matrix[chunk].T).T
        return result

    def rotate_columns(self, matrix: Floats) -> None:
        """Q^T @ matrix of [n, columns], in place: a whole matrix of the model needs no second copy."""
        order, columns = matrix.shape
        step = max(1, _CHUNK_ELEMENTS // order)
        for start in range(0, columns, step):
            chunk = slice(start, min(start + step, columns))
            matrix[:, chunk] = self._transposed_product(matrix[:, chunk])

    def _transposed_product(self, columns: Floats) -> Floats:
        """Q^T @ columns of [n, c]. The transformed axis is the slow one, so every pass runs along contiguous memory."""
        order, count = columns.shape
        size, half = len(self.mixing), 1
        values = np.empty((order, count), np.float32)
        np.multiply(columns, self.signs[:, None], out=values)
        spare = np.empty_like(values)
        while half < order // size:  # the fast Walsh-Hadamard transform: (a, b) becomes (a + b, a - b) at distance 1, 2, 4 …
            pairs, sums = (array.reshape(-1, 2, half * count) for array in (values, spare))
            np.add(pairs[:, 0], pairs[:, 1], out=sums[:, 0])
            np.subtract(pairs[:, 0], pairs[:, 1], out=sums[:, 1])
            values, spare, half = spare, values, 2 * half
        return values if size == 1 else _mix(self.mixing, values.reshape(size, -1), spare.reshape(size, -1)).reshape(order, count)


def random_rotation(order: int, seed: str) -> Rotation:
    """The rotation of this order that `seed` stands for.

    Its bits are SHAKE-256 of the seed, its odd part is orthogonalized in Python's floats (exactly rounded sums and roots): no random
    generator, LAPACK or libm that may change between versions or processors has a say.
    """
    power = order & -order
    odd = order // power
    bits = np.unpackbits(np.frombuffer(_digest(f"{seed} signs", -(-order // 8)), np.uint8), count=order)
    signs = (1 - 2 * bits.astype(np.float32)) * np.float32(1 / math.sqrt(power))
    return Rotation(signs, _random_orthogonal(odd, f"{seed} mixing"))


def _digest(seed: str, size_bytes: int) -> bytes:
    return hashlib.shake_256(seed.encode()).digest(size_bytes)


def _random_orthogonal(order: int, seed: str) -> Floats:
    """The Q of a QR decomposition (Gram-Schmidt, each projection taken out twice) of a matrix with uniform entries; float32."""
    if order == 1 or order > _LARGEST_MIXING:
        return np.eye(order, dtype=np.float32)
    entries = np.frombuffer(_digest(seed, 4 * order * order), "<i4").reshape(order, order)
    basis: list[list[float]] = []
    for entry in entries.tolist():
        vector = [float(value) for value in entry]
        for other in [*basis, *basis]:
            along = math.fsum(a * b for a, b in zip(vector, other, strict=True))
            vector = [a - along * b for a, b in zip(vector, other, strict=True)]
        length = math.sqrt(math.fsum(a * a for a in vector))
        basis.append([a / length for a in vector])
    return np.array(basis, np.float32)


def _mix(mixing: Floats, values: Floats, result: Floats) -> Floats:
    """`result` = mixing^T @ values, summed in the order of the rows."""
    product = np.empty_like(values[0])
    for column, total in zip(mixing.T, result, strict=True):
        np.multiply(values[0], column[0], out=total)
        for factor, row in zip(column[1:], values[1:], strict=True):
            np.multiply(row, factor, out=product)
            total += product
    return result
