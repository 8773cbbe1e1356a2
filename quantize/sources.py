"""Which tensors of a file make up each neutral tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from protos.manifest import ModelConfig
from quantize.blocks import Floats


@dataclass(frozen=True)
class SourceTensor:
    """`shape` of a file's tensor: all of it, or of one that is `whole` what begins at row `first`. Rows are those of the last axis, however
    many axes are before it. `transposed`: `shape` is of what is read, whose columns are the file's rows."""

    name: str
    shape: tuple[int, ...]
    whole: tuple[int, ...] = ()
    first: int = 0
    transposed: bool = False

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.whole or self.shape


@dataclass(frozen=True)
class Rows:
    """Of a file's tensor `whole`, the rows from `first` on that make up a neutral tensor: see `SourceTensor`."""

    name: str
    whole: tuple[int, ...]
    first: int
    transposed: bool = False


Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Sources: TypeAlias = Mapping[str, tuple[SourceTensor, ...]]
InnerNames: TypeAlias = Mapping[str, "tuple[str | Rows, ...]"]


@dataclass(frozen=True)
class FileNames:
    """Of a family's tensors in a checkpoint's files: `outer` by neutral name, those of layer i `layer`.format(i) + each of `inner` (by
    names in the layer), one for a tensor stored whole, or three of a qkv.* (q, k, v) and several of equal size of anything else (gate, up).
    One that is stored within another is given as `Rows`.
    """

    outer: Mapping[str, str]
    layer: str
    inner: InnerNames


def sources_of(config: ModelConfig, shapes: Shapes, names: FileNames) -> Sources:
    """Neutral name (all of `shapes`) -> the file's tensors, whose rows in this order are the neutral tensor's."""
    sources: dict[str, tuple[SourceTensor, ...]] = {}
    for neutral, shape in shapes.items():
        if neutral in names.outer:
            sources[neutral] = (SourceTensor(names.outer[neutral], shape),)
            continue
        _, layer, name = neutral.split(".", 2)
        files = names.inner[name]
        fused = "qkv" in name.split(".") and len(files) == 3
        rows = (config.query_size, config.kv_size, config.kv_size) if fused else (shape[0] // len(files),) * len(files)
        prefix = names.layer.format(layer)
        sources[neutral] = tuple(_source(prefix, file, (count, *shape[1:])) for file, count in zip(files, rows, strict=True))
    return sources


def read_rows(parts: tuple[SourceTensor, ...], start: int, stop: int, read: Callable[[str, int, int], Floats]) -> Floats:
    """Rows [start, stop) of the parts laid one below the other; `read` gives rows of one of them."""
    pieces, first = [], 0
    for part in parts:
        rows = part.shape[0]
        low, high = max(start - first, 0), min(stop - first, rows)
        if low < high:
            pieces.append(_read(part, low, high, read))
        first += rows
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _source(prefix: str, file: str | Rows, shape: tuple[int, ...]) -> SourceTensor:
    if isinstance(file, str):
        return SourceTensor(prefix + file, shape)
    return SourceTensor(prefix + file.name, shape, file.whole, file.first, file.transposed)


def _read(part: SourceTensor, start: int, stop: int, read: Callable[[str, int, int], Floats]) -> Floats:
    if not part.transposed:
        return read(part.name, part.first + start, part.first + stop)
    columns = read(part.name, part.first, part.first + part.shape[1])
    return np.ascontiguousarray(columns[:, start:stop].T)
