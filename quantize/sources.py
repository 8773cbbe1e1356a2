"""Which tensors of a file make up each neutral tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from protos.manifest import ModelConfig
from quantize.blocks import Floats
from quantize.checkpoint import tensor_shapes


@dataclass(frozen=True)
class SourceTensor:
    name: str
    shape: tuple[int, ...]


Sources = Mapping[str, tuple[SourceTensor, ...]]


def sources_of(config: ModelConfig, outer: Mapping[str, str], layer_prefix: str, inner: Mapping[str, tuple[str, ...]]) -> Sources:
    """Neutral name -> the file's tensors, whose rows in this order are the neutral tensor's.

    `outer` names those outside the layers. Layer i's are `layer_prefix.format(i)` + each of `inner`, one for a tensor stored whole,
    or three of a qkv.* (q, k, v) and two of gate_up.weight (gate, up).
    """
    split = {"qkv": (config.query_size, config.kv_size, config.kv_size), "gate_up": (config.intermediate_size,) * 2}
    sources: dict[str, tuple[SourceTensor, ...]] = {}
    for neutral, shape in tensor_shapes(config).items():
        if neutral in outer:
            sources[neutral] = (SourceTensor(outer[neutral], shape),)
            continue
        _, layer, name = neutral.split(".", 2)
        names = inner[name]
        rows = (shape[0],) if len(names) == 1 else split[name.partition(".")[0]]
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
