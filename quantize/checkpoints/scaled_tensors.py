"""Matrices of 8-bit values, FP8 or integers, with a scale for the whole, for each row, or for each block of rows and columns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from quantize.blocks import Floats
from quantize.checkpoints.tensors import StoredTensor


@dataclass(frozen=True)
class ScaledTensor:
    """`values` [out, in] times `scales` [rows of blocks, columns of blocks], each for a block of so many rows and columns; `zeros`, of
    the scales' shape, is what values count from. Of several matrices one below the other, each has `matrix_rows` rows. Values of three
    dimensions have to be flattened before they are read."""

    values: StoredTensor
    scales: StoredTensor
    block: tuple[int, int]
    matrix_rows: int
    zeros: StoredTensor | None = None

    @property
    def file(self) -> str:
        return self.values.file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def read(self, start: int, stop: int) -> Floats:
        height, width = self.block
        blocks = -(-self.matrix_rows // height)
        rows = np.arange(start, stop)
        wanted = rows // self.matrix_rows * blocks + rows % self.matrix_rows // height
        first, last = int(wanted[0]), int(wanted[-1]) + 1
        columns = np.arange(self.shape[1]) // width
        weights = self.values.read(start, stop)
        if self.zeros is not None:
            weights = weights - self.zeros.read(first, last)[wanted - first][:, columns]
        weights = weights * self.scales.read(first, last)[wanted - first][:, columns]
        return np.ascontiguousarray(weights, dtype=np.float32)

    def flattened(self) -> ScaledTensor:
        zeros = None if self.zeros is None else self.zeros.flattened()
        return replace(self, values=self.values.flattened(), scales=self.scales.flattened(), zeros=zeros)
