"""Parts of an artifact: their names, what tensors each holds and where, what each costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from protos.errors import InvalidInput
from protos.manifest import ALIGNMENT, ITEM_BYTES, Blob, Cost, Manifest, ModelConfig, Part
from quantize.blocks import padded
from quantize.checkpoint import layer_tensor_shapes
from quantize.positions import table_columns

EMBEDDING, POSITIONS, HEAD = "embedding", "positions", "head"
# Of each layer: what one step of an int8 cache's element is worth, per channel of the key and the value heads.
KV_SCALES = KEY_SCALES, VALUE_SCALES = "k_scale", "v_scale"
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


def layer_part(layer: int) -> str:
    return f"layers.{layer}"


def layer_number(part: str) -> int | None:
    """5 of "layers.5"; None of any other name."""
    prefix, dot, digits = part.partition(".")
    return int(digits) if prefix == "layers" and dot and digits.isdecimal() and str(int(digits)) == digits else None


def stage_parts(config: ModelConfig, start: int, stop: int, *, head: bool = False) -> tuple[str, ...]:
    """Parts of the stage with layers [start, stop); the pipeline's head device (`head`) also holds embedding and output head."""
    layers = tuple(layer_part(layer) for layer in range(start, stop))
    return (*((EMBEDDING,) if head else ()), *((POSITIONS,) if layers else ()), *layers, *((HEAD,) if head else ()))


def stage_blobs(manifest: Manifest, parts: Sequence[str]) -> tuple[Blob, ...]:
    """Blobs that these parts' default variants lie in, each once. Raises InvalidInput."""
    blobs = {blob.digest: blob for name in parts for blob in find_part(manifest, name).variants[0].blobs}
    return tuple(blobs.values())


def layout_name(block_size: int) -> str:
    return f"matmulnbits.8.{block_size}"


def part_specs(config: ModelConfig, block_size: int) -> Iterator[PartSpec]:
    """Every part in the manifest's order: embedding, positions, layers, head."""
    hidden, vocabulary = config.hidden_size, config.vocab_size
    width = padded(hidden, block_size)
    embedding = _Layout(EMBEDDING)
    embedding.add("weight", "uint8", (vocabulary, width))
    embedding.add("scales", "float32", (vocabulary, width // block_size))
    yield embedding.part(read_bytes=width + 4 * (width // block_size), macs=0)

    positions, columns = _Layout(POSITIONS), table_columns(config)
    for name in ("cos", "sin"):
        positions.add(name, "float32", (config.max_positions, columns))
    yield positions.part(read_bytes=2 * 4 * columns, macs=0)

    for layer in range(config.layers):
        yield _layer(config, block_size, layer)

    head = _Layout(HEAD)
    head.add("norm", "float32", (hidden,))
    blocks = (vocabulary, width // block_size, block_size)
    if config.tied_head:
        offset_of_scales = next(tensor.offset for tensor in embedding.tensors if tensor.name == "scales")
        head.share("weight", "uint8", blocks, EMBEDDING, 0)
        head.share("scales", "float32", blocks[:2], EMBEDDING, offset_of_scales)
    else:
        head.add("weight", "uint8", blocks)
        head.add("scales", "float32", blocks[:2])
    yield head.part(macs=vocabulary * hidden)


def find_part(manifest: Manifest, name: str) -> Part:
    """Raises InvalidInput."""
    try:
        return manifest.part(name)
    except KeyError:
        raise InvalidInput(f"the model has no part {name!r}", advice="the plan is not for this model: make it again") from None


def _layer(config: ModelConfig, block_size: int, layer: int) -> PartSpec:
    layout = _Layout(layer_part(layer))
    shapes = layer_tensor_shapes(config)
    macs = 0
    for name in ("input_norm", "qkv.weight", "qkv.bias", "o.weight", "post_norm", "gate_up.weight", "down.weight"):
        if name not in shapes:
            continue
        if name.endswith(".weight"):
            rows, columns = shapes[name]
            macs += rows * columns
            layout.add_matrix(name.removesuffix("weight"), rows, columns, block_size)
        else:
            layout.add(name, "float32", shapes[name])
    for name in KV_SCALES:
        layout.add(name, "float32", (config.kv_size,))
    return layout.part(macs=macs, kv_bytes_per_token=2 * 4 * config.kv_size)


class _Layout:
    """Collects a part's tensors, each at the next aligned offset."""

    def __init__(self, part: str) -> None:
        self.tensors: list[TensorSpec] = []
        self._name = part
        self._end = 0

    def add(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        tensor = TensorSpec(name, dtype, shape, self._name, padded(self._end, ALIGNMENT))
        self._end = tensor.offset + tensor.size_bytes
        self.tensors.append(tensor)

    def add_matrix(self, prefix: str, rows: int, columns: int, block_size: int) -> None:
        blocks = padded(columns, block_size) // block_size
        self.add(f"{prefix}weight", "uint8", (rows, blocks, block_size))
        self.add(f"{prefix}scales", "float32", (rows, blocks))

    def share(self, name: str, dtype: str, shape: tuple[int, ...], owner: str, offset: int) -> None:
        self.tensors.append(TensorSpec(name, dtype, shape, owner, offset))

    def part(self, *, macs: int, read_bytes: int | None = None, kv_bytes_per_token: int = 0) -> PartSpec:
        weight_bytes = sum(tensor.size_bytes for tensor in self.tensors)
        cost = Cost(weight_bytes, weight_bytes if read_bytes is None else read_bytes, macs, kv_bytes_per_token)
        return PartSpec(self._name, tuple(self.tensors), self._end, cost)
