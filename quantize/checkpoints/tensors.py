"""A tensor of a checkpoint folder, read by rows: as a file holds it, or a view of others."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from protos.errors import InvalidInput
from quantize.blocks import Floats
from quantize.files import read_at


class Tensor(Protocol):
    """`file` is where it lies, and what errors call."""

    @property
    def file(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, start: int, stop: int) -> Floats:
        """Rows [start, stop), counted along the first dimension, as float32."""
        ...

    def flattened(self) -> Tensor:
        """The same as a matrix: all dimensions but the last are rows."""
        ...


@dataclass(frozen=True)
class StoredTensor:
    """Of an open file: `offset` is from the file's beginning."""

    file: str
    descriptor: int
    dtype: str  # safetensors' name
    shape: tuple[int, ...]
    offset: int

    def read(self, start: int, stop: int) -> Floats:
        return _widened(self.raw(start, stop), self.dtype)

    def raw(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop) as they are stored; FP8 as bytes. Raises InvalidInput for a type that is not in `STORED_DTYPES`."""
        dtype = self._numpy_dtype()
        row_bytes = math.prod(self.shape[1:]) * dtype.itemsize
        data = read_at(self.descriptor, (stop - start) * row_bytes, self.offset + start * row_bytes, self.file)
        return data.view(dtype).reshape(stop - start, *self.shape[1:])

    def raw_columns(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Of a matrix, columns [start, stop) as they are stored, no more of the file than these."""
        rows, columns = self.shape
        if stop - start == columns:
            return self.raw(0, rows)
        dtype = self._numpy_dtype()
        found = np.empty((rows, stop - start), dtype)
        for row in range(rows):
            place = self.offset + (row * columns + start) * dtype.itemsize
            found[row] = read_at(self.descriptor, (stop - start) * dtype.itemsize, place, self.file).view(dtype)
        return found

    def columns(self, start: int, stop: int) -> Floats:
        """As `raw_columns`, as float32."""
        return _widened(self.raw_columns(start, stop), self.dtype)

    def _numpy_dtype(self) -> np.dtype[Any]:
        if self.dtype not in STORED_DTYPES:
            raise InvalidInput(f"{self.file}: a tensor is stored as {self.dtype}", advice=f"{', '.join(STORED_DTYPES)} can be read")
        return STORED_DTYPES[self.dtype]

    def flattened(self) -> StoredTensor:
        return replace(self, shape=(math.prod(self.shape[:-1]), self.shape[-1]))


@dataclass(frozen=True)
class RowsOf:
    """`rows` rows of a matrix, from `first` on."""

    base: Tensor
    first: int
    rows: int

    @property
    def file(self) -> str:
        return self.base.file

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, *self.base.shape[1:])

    def read(self, start: int, stop: int) -> Floats:
        return self.base.read(self.first + start, self.first + stop)

    def flattened(self) -> Tensor:
        return self


# What weights are stored as, and besides what parts of quantized ones are. bfloat16 is the upper half of a float32; FP8 is looked up.
FLOAT_DTYPES = ("F32", "F16", "BF16")
STORED_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
}


def _widened(values: npt.NDArray[Any], dtype: str) -> Floats:
    if dtype == "BF16":
        widened: Floats = (values.astype(np.uint32) << 16).view(np.float32)
        return widened
    table = _FP8.get(dtype)
    return values.astype(np.float32, copy=False) if table is None else table[values]


def _fp8(exponent_bits: int, mantissa_bits: int, bias: int) -> Floats:
    """The 256 values of a float with a sign, as OCP's 8-bit formats are defined (E4M3 has no infinity, and NaN only above 448)."""
    codes = np.arange(256)
    exponents, mantissas = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1), codes & ((1 << mantissa_bits) - 1)
    shares = mantissas / (1 << mantissa_bits)
    values = np.where(exponents == 0, shares * 2.0 ** (1 - bias), (1 + shares) * 2.0 ** (exponents - bias))
    if exponent_bits == 5:
        values = np.where(exponents == 31, np.where(mantissas == 0, np.inf, np.nan), values)
    else:
        values = np.where((exponents == 15) & (mantissas == 7), np.nan, values)
    return np.where(codes >> 7, -values, values).astype(np.float32)


_FP8: dict[str, Floats] = {
    "F8_E4M3": _fp8(4, 3, 7),
    "F8_E5M2": _fp8(5, 2, 15),
    "F8_E8M0": np.append(2.0 ** (np.arange(255) - 127.0), np.nan).astype(np.float32),
}
