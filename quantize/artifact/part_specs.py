"""What each part of an artifact will hold, where, and what it costs: before a byte of it exists."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from protos.manifest import ALIGNMENT, ITEM_BYTES, Cost, ModelConfig, Quantization
from quantize.architectures.registry import architecture_of
from quantize.artifact.schemes import Scheme
from quantize.blocks import padded
from quantize.layers.positions import table_columns
from quantize.parts import EMBEDDING, HEAD, KV_SCALES, POSITIONS, layer_part

# The rotary tables of 32,768 positions are 16 MB at rotary_dim 128; longer contexts do not fit the devices we are for.
MAX_POSITIONS = 32_768


@dataclass(frozen=True)
class TensorSpec:
    """One stored tensor, `offset` bytes into the blob of part `owner`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    owner: str
    offset: int

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class PartSpec:
    """A part before its bytes exist; `size_bytes` is its own blob's."""

    name: str
    tensors: tuple[TensorSpec, ...]
    size_bytes: int
    cost: Cost

    @property
    def own(self) -> tuple[TensorSpec, ...]:
        """The tensors in the part's own blob, by offset."""
        return tuple(tensor for tensor in self.tensors if tensor.owner == self.name)


def layout_name(quantization: Quantization) -> str:
    kind = f"matmulnbits.{quantization.bits}.{quantization.block_size}" if quantization.block_size else "float32"
    return kind if quantization.symmetric else f"{kind}.asymmetric"


def scheme_of(quantization: Quantization, part: str) -> Scheme:
    """Embedding and output head are few bytes of a large model, and most of a small one's quality: they stay at `outer_bits`."""
    outer = part in (EMBEDDING, HEAD)
    return Scheme(quantization.outer_bits if outer else quantization.bits, quantization.block_size, outer or quantization.symmetric)


def part_specs(config: ModelConfig, quantization: Quantization) -> Iterator[PartSpec]:
    """Every part in the manifest's order: embedding, positions (where the model has rotary ones), layers, head."""
    architecture = architecture_of(config)
    outer = architecture.outer_parts(config)
    embedding = _Layout(EMBEDDING, quantization)
    for name, shape in outer[EMBEDDING].items():
        embedding.add_table(name, *shape)
    # One row of each table for a token.
    row_bytes = sum(tensor.size_bytes // tensor.shape[0] for tensor in embedding.tensors)
    yield embedding.part(read_bytes=row_bytes, macs=0)

    if config.rotary_dim:
        positions, columns = _Layout(POSITIONS, quantization), table_columns(config)
        for name in ("cos", "sin"):
            positions.add(name, "float32", (config.max_positions, columns))
        yield positions.part(read_bytes=2 * 4 * columns, macs=0)

    for layer in range(config.layers):
        for inner, tensors in architecture.layer_parts(config, layer).items():
            layout = _Layout(layer_part(layer, inner), quantization)
            for name, shape in tensors.items():
                layout.add_tensor(name, shape)
            has_cache = inner == next(iter(architecture.layer_parts(config, layer)))
            if has_cache:
                for name in KV_SCALES:
                    layout.add(name, "float32", (config.kv_size,))
            kv_bytes = 2 * 4 * config.kv_size if has_cache else 0
            yield layout.part(used_share=architecture.used_share(config, inner), kv_bytes_per_token=kv_bytes)

    head = _Layout(HEAD, quantization)
    for name, shape in outer[HEAD].items():
        head.add_tensor(name, shape)
    if config.tied_head:
        head.share_matrix(embedding, *outer[EMBEDDING]["weight"])
    yield head.part()


class _Layout:
    """Collects a part's tensors, each at the next aligned offset."""

    def __init__(self, part: str, quantization: Quantization) -> None:
        self.tensors: list[TensorSpec] = []
        self._name = part
        self._scheme = scheme_of(quantization, part)
        self._end = 0
        self._macs = 0

    def add(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        tensor = TensorSpec(name, dtype, shape, self._name, padded(self._end, ALIGNMENT))
        self._end = tensor.offset + tensor.size_bytes
        self.tensors.append(tensor)

    def add_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        """A neutral tensor: a matrix by blocks, anything else as it is."""
        if name.endswith("weight"):
            self._macs += math.prod(shape)
            self._add_matrix(name, *shape, flat=False)
        else:
            self.add(name, "float32", shape)

    def add_table(self, name: str, *shape: int) -> None:
        """A neutral tensor of which rows are gathered; the operator wants its blocks in a row."""
        if name.endswith("weight"):
            rows, columns = shape
            self._add_matrix(name, rows, columns, flat=True)
        else:
            self.add(name, "float32", shape)

    def share_matrix(self, owner: _Layout, rows: int, columns: int) -> None:
        """Another part's "weight", multiplied with here."""
        self._macs += rows * columns
        theirs = [tensor for tensor in owner.tensors if tensor.name in ("weight", "scales")]
        shapes = self._scheme.shapes(rows, columns) if self._scheme.block_size else {"weight": ("float32", (rows, columns))}
        for tensor, (dtype, shape) in zip(theirs, shapes.values(), strict=True):
            self.tensors.append(TensorSpec(tensor.name, dtype, shape, owner._name, tensor.offset))

    def part(
        self, *, macs: int | None = None, read_bytes: int | None = None, used_share: float = 1.0, kv_bytes_per_token: int = 0
    ) -> PartSpec:
        weight_bytes = sum(tensor.size_bytes for tensor in self.tensors)
        read_bytes = round(weight_bytes * used_share) if read_bytes is None else read_bytes
        macs = round(self._macs * used_share) if macs is None else macs
        return PartSpec(self._name, tuple(self.tensors), self._end, Cost(weight_bytes, read_bytes, macs, kv_bytes_per_token))

    def _add_matrix(self, name: str, rows: int, columns: int, *, flat: bool) -> None:
        if not self._scheme.block_size:
            self.add(name, "float32", (rows, columns))
            return
        for what, (dtype, shape) in self._scheme.shapes(rows, columns).items():
            self.add(name.removesuffix("weight") + what, dtype, (rows, math.prod(shape[1:])) if flat and what == "weight" else shape)
