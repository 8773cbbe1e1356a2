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
    name: str
    shape: tuple[int, ...]


Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Sources: TypeAlias = Mapping[str, tuple[SourceTensor, ...]]


def tensor_names(parts: Mapping[str, Shapes]) -> dict[str, tuple[int, ...]]:
    """Shapes by part and tensor in one name, "" being no part."""
    return {".".join(filter(None, (part, tensor))): shape for part, tensors in parts.items() for tensor, shape in tensors.items()}


def shapes_of(
    config: ModelConfig, outer_parts: Mapping[str, Shapes], layer_parts: Callable[[ModelConfig, int], Mapping[str, Shapes]]
) -> dict[str, tuple[int, ...]]:
    """Every neutral tensor of a model, layers before the head; see Architecture."""
    outer = tensor_names(outer_parts)
    shapes = {name: shape for name, shape in outer.items() if not name.startswith("head.")}
    for layer in range(config.layers):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in tensor_names(layer_parts(config, layer)).items()}
    return {**shapes, **outer}


def sources_of(
    config: ModelConfig, shapes: Shapes, outer: Mapping[str, str], layer_prefix: str, inner: Mapping[str, tuple[str, ...]]
) -> Sources:
    """Neutral name (all of `shapes`) -> the file's tensors, whose rows in this order are the neutral tensor's.

    `outer` names those outside the layers. Layer i's are `layer_prefix.format(i)` + each of `inner` (by their names in the layer), one for
    a tensor stored whole, or three of a qkv.* (q, k, v) and several of equal size of anything else (gate, up).
    """
    sources: dict[str, tuple[SourceTensor, ...]] = {}
    for neutral, shape in shapes.items():
        if neutral in outer:
            sources[neutral] = (SourceTensor(outer[neutral], shape),)
            continue
        _, layer, name = neutral.split(".", 2)
        names = inner[name]
        fused = "qkv" in name.split(".") and len(names) == 3
        rows = (config.query_size, config.kv_size, config.kv_size) if fused else (shape[0] // len(names),) * len(names)
        prefix = layer_prefix.format(layer)
        sources[neutral] = tuple(SourceTensor(prefix + part, (count, *shape[1:])) for part, count in zip(names, rows, strict=True))
    return sources


def read_rows(parts: tuple[SourceTensor, ...], start: int, stop: int, read: Callable[[str, int, int], Floats]) -> Floats:
    """Rows [start, stop) of the parts laid one below the other; `read` gives rows of one of them."""
    pieces, first = [], 0
    for part in parts:
        rows = part.shape[0]
        low, high = max(start - first, 0), min(stop - first, rows)
        if low < high:
            pieces.append(read(part.name, low, high))
        first += rows
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
