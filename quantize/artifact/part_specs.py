"""What each part of an artifact will hold, where, and what it costs: before a byte of it exists."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from protos.manifest import ALIGNMENT, ITEM_BYTES, Cost, ModelConfig, Quantization
from quantize.architectures.registry import architecture_of
from quantize.artifact.operator_costs import OperatorCost, operator_costs, part_cost
from quantize.artifact.schemes import scheme_of
from quantize.blocks import padded
from quantize.layers.operators import Block, TensorParameter, caches, parameters
from quantize.layers.positions import table_columns
from quantize.parts import EMBEDDING, HEAD, POSITIONS, layer_part

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


def part_specs(config: ModelConfig, quantization: Quantization) -> Iterator[PartSpec]:
    """Every part in the manifest's order: embedding, positions (where the model has rotary ones), layers, head."""
    architecture = architecture_of(config)
    embedding = architecture.embedding(config)
    table = _Layout(EMBEDDING, quantization)
    for parameter in parameters(embedding):
        table.add_parameter(parameter, flat=True)  # the operator that gathers rows wants their blocks in a row
    yield table.part(part_cost(operator_costs(embedding, scheme_of(quantization, EMBEDDING))))

    if config.rotary_dim:
        positions, columns = _Layout(POSITIONS, quantization), table_columns(config)
        for name in ("cos", "sin"):
            positions.add(name, "float32", (config.max_positions, columns))
        weight_bytes = sum(tensor.size_bytes for tensor in positions.tensors)
        yield positions.part(Cost(weight_bytes, read_bytes=2 * 4 * columns, macs=0, kv_bytes_per_token=0))

    for layer in range(config.layers):
        yield from _layer_specs(architecture.layer(config, layer), layer, quantization)

    last, head = architecture.head(config), _Layout(HEAD, quantization)
    for parameter in parameters(last):
        if parameter.shared_from:
            head.share_parameter(parameter, table)
        else:
            head.add_parameter(parameter)
    yield head.part(part_cost(operator_costs(last, scheme_of(quantization, HEAD))))


def _layer_specs(block: Block, layer: int, quantization: Quantization) -> Iterator[PartSpec]:
    """The scales of an int8 cache come last in attention's part."""
    layouts: dict[str, _Layout] = {}
    scales = (scale for cache in caches(block) for scale in (cache.key_scale, cache.value_scale))
    for parameter in (*parameters(block), *scales):
        layout = layouts.setdefault(parameter.part, _Layout(layer_part(layer, parameter.part), quantization))
        layout.add_parameter(parameter)
    costs: dict[str, list[OperatorCost]] = {part: [] for part in layouts}
    for cost in operator_costs(block, scheme_of(quantization, layer_part(layer))):
        if cost.weight_bytes:
            costs[cost.part].append(cost)
    for part, layout in layouts.items():
        yield layout.part(part_cost(costs[part]))


class _Layout:
    """Collects a part's tensors, each at the next aligned offset."""

    def __init__(self, part: str, quantization: Quantization) -> None:
        self.tensors: list[TensorSpec] = []
        self._name = part
        self._scheme = scheme_of(quantization, part)
        self._end = 0

    def add(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        tensor = TensorSpec(name, dtype, shape, self._name, padded(self._end, ALIGNMENT))
        self._end = tensor.offset + tensor.size_bytes
        self.tensors.append(tensor)

    def add_parameter(self, parameter: TensorParameter, *, flat: bool = False) -> None:
        """A matrix by blocks, which lie in a row where `flat`; anything else as it is."""
        name, shape = parameter.name, parameter.shape
        if not (parameter.by_blocks and self._scheme.block_size):
            self.add(name, "float32", shape)
            return
        for what, (dtype, stored) in self._scheme.shapes(*shape).items():
            rows = stored[0]
            self.add(name.removesuffix("weight") + what, dtype, (rows, math.prod(stored[1:])) if flat and what == "weight" else stored)

    def share_parameter(self, parameter: TensorParameter, owner: _Layout) -> None:
        """A matrix that another part keeps under the same name, multiplied with here."""
        theirs = [tensor for tensor in owner.tensors if tensor.name in ("weight", "scales")]
        shapes = self._scheme.shapes(*parameter.shape) if self._scheme.block_size else {"weight": ("float32", parameter.shape)}
        for tensor, (dtype, shape) in zip(theirs, shapes.values(), strict=True):
            self.tensors.append(TensorSpec(tensor.name, dtype, shape, owner._name, tensor.offset))

    def part(self, cost: Cost) -> PartSpec:
        return PartSpec(self._name, tuple(self.tensors), self._end, cost)
