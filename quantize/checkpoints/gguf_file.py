"""A GGUF file: its metadata within bounds, its tensors dequantized by rows, at most one slab of the file in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NoReturn, cast

import gguf
import numpy as np

from protos.errors import InvalidInput
from quantize.blocks import Floats
from quantize.checkpoints.gguf_header import check_header
from quantize.files import read_at
from quantize.sources import SourceTensor

_GET_AGAIN = "get the file again: its download was cut short or it was edited"


class GgufFile:
    """Made by `open_gguf_file`; `name` is what errors call it."""

    def __init__(self, file: IO[bytes], name: str, reader: gguf.GGUFReader) -> None:
        self.name = name
        self._file = file
        self._fields: dict[str, gguf.ReaderField] = reader.fields
        self._values: dict[str, Any] = {}
        self._tensors: dict[str, gguf.ReaderTensor] = {tensor.name: tensor for tensor in reader.tensors}

    @property
    def tensor_names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def types(self) -> tuple[str, ...]:
        """What the matrices are stored as, the most frequent first."""
        kinds = [tensor.tensor_type.name for tensor in self._tensors.values() if len(tensor.shape) > 1]
        return tuple(sorted(dict.fromkeys(kinds), key=lambda kind: (-kinds.count(kind), kind)))

    def rows(self, name: str) -> int:
        """Of a tensor, its first dimension. Raises InvalidInput when there is no such tensor."""
        if name not in self._tensors:
            self._lacks(f"tensor {name}")
        return int(self._tensors[name].shape[-1])

    def has(self, key: str) -> bool:
        return key in self._fields

    def keys(self, prefix: str) -> tuple[str, ...]:
        return tuple(key for key in self._fields if key.startswith(prefix))

    def values(self, prefix: str) -> dict[str, Any]:
        """Of the metadata whose keys begin with it, as they are, by what follows it."""
        return {key.removeprefix(prefix): self._get(key, None) for key in self._fields if key.startswith(prefix)}

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(f"{key} must be a whole number from {low} to {high}, not {repr(value)[:60]}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """GGUF holds most as float32: seven digits give back what was meant (1e-5)."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
            self.refuse(f"{key} must be a number from {low:g} to {high:g}, not {repr(value)[:60]}")
        return float(f"{value:.7g}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            self.refuse(f"{key} is no text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            self.refuse(f"{key} is neither true nor false")
        return value

    def texts(self, key: str) -> list[str]:
        value = self._get(key, None)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self.refuse(f"{key} is no list of texts")
        return value

    def integers(self, key: str) -> list[int]:
        value = self._get(key, None)
        if not isinstance(value, list) or not all(isinstance(one, int) for one in value):
            self.refuse(f"{key} is no list of numbers")
        return value

    def numbers(self, key: str) -> list[float]:
        value = self._get(key, None)
        if not isinstance(value, list) or not all(isinstance(one, (int, float)) and math.isfinite(one) for one in value):
            self.refuse(f"{key} is no list of numbers")
        return value

    def check(self, expected: Iterable[SourceTensor]) -> None:
        """Raises InvalidInput for the first tensor that is missing, of another shape, or of a type that cannot be dequantized."""
        for tensor in expected:
            found = self._tensors.get(tensor.name)
            if found is None:
                self._lacks(f"tensor {tensor.name}")
            shape = tuple(int(size) for size in reversed(found.shape))
            if shape != tensor.stored_shape:
                self.refuse(f"tensor {tensor.name} has shape {list(shape)}, its metadata ask for {list(tensor.stored_shape)}")
            if len(shape) == 1 and gguf.GGML_QUANT_SIZES[found.tensor_type][0] > 1:  # its rows are single values: no blocks
                self.refuse(f"tensor {tensor.name} is a vector, stored in blocks as {found.tensor_type.name}")
        for kind in {found.tensor_type for found in self._tensors.values()}:
            _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            try:
                with np.errstate(all="ignore"):
                    gguf.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
            except NotImplementedError:
                raise InvalidInput(
                    f"{self.name} stores tensors as {kind.name}, which cannot be read",
                    advice="get it as F16, BF16, Q8_0, or another type that the gguf package can dequantize",
                ) from None

    def read(self, name: str, start: int, stop: int) -> Floats:
        """Rows [start, stop) as float32, those of the last axis."""
        tensor = self._tensors[name]
        rows = math.prod(int(size) for size in tensor.shape[1:]) if len(tensor.shape) > 1 else int(tensor.shape[0])
        row_bytes = int(tensor.n_bytes) // rows
        data = read_at(self._file.fileno(), (stop - start) * row_bytes, int(tensor.data_offset) + start * row_bytes, self.name)
        with np.errstate(all="ignore"):  # a scale that is not finite is refused with the tensor's name
            values = gguf.dequantize(data.reshape(stop - start, row_bytes), tensor.tensor_type)
        columns = () if len(tensor.shape) == 1 else (-1,)
        return np.ascontiguousarray(values, dtype=np.float32).reshape(stop - start, *columns)

    def refuse(self, what: str) -> NoReturn:
        raise InvalidInput(f"{self.name}: {what}", advice="give a GGUF file of a GLM model as llama.cpp's converter writes it")

    def _get(self, key: str, default: Any) -> Any:
        if key not in self._values:
            field = self._fields.get(key)
            if field is None:
                if default is None:
                    self._lacks(key)
                return default
            try:
                self._values[key] = field.contents()  # a second for the vocabulary: once is enough
            except UnicodeDecodeError:
                self.refuse(f"{key} is not UTF-8")
        return self._values[key]

    def _lacks(self, what: str) -> NoReturn:
        self.refuse(f"it has no {what}")


@contextmanager
def open_gguf_file(file: IO[bytes], name: str) -> Iterator[GgufFile]:
    """Reads the header. Raises InvalidInput when it is no GGUF file, or contradicts itself."""
    check_header(file, name)
    file.seek(0)
    try:
        # numpy maps an open file as well as a path.
        reader = gguf.GGUFReader(cast("Any", file))
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise InvalidInput(f"{name}: its GGUF header is damaged ({' '.join(str(error).split())[:80]})", advice=_GET_AGAIN) from error
    opened = GgufFile(file, name, reader)
    if opened.has("split.count") and opened.integer("split.count", 0, 1 << 16) > 1:
        raise InvalidInput(f"{name} is one file of several", advice="join them first: llama-gguf-split --merge FIRST.gguf WHOLE.gguf")
    yield opened
