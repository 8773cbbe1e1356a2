"""What the importer needs of a checkpoint, whatever file it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from protos.manifest import ModelConfig, Provenance
from quantize.architectures.registry import architecture_of
from quantize.blocks import Floats
from quantize.checkpoints.sampling_defaults import FoundSampling
from quantize.layers.operators import parameters
from quantize.parts import EMBEDDING, HEAD, layer_part

# A slab of 4 M weights is 16 MB as fp32: small beside the process, large beside numpy's overhead per call.
SLAB_ELEMENTS = 4 << 20


class Checkpoint(Protocol):
    """A model in neutral names (see `tensor_shapes`), read tensor by tensor; everything below is already validated.

    Linear weights are [out, in]; q and k rows are in the order of interleaved RoPE pairs (2i, 2i + 1).
    """

    @property
    def config(self) -> ModelConfig: ...

    @property
    def provenance(self) -> Provenance: ...

    @property
    def text_files(self) -> Mapping[str, bytes]:
        """ "tokenizer.json" always; "tokenizer_config.json", "chat_template.jinja" where the model has them."""
        ...

    @property
    def sampling(self) -> FoundSampling: ...

    def read(self, name: str, start: int, stop: int) -> Floats:
        """Rows [start, stop) of a neutral tensor as contiguous float32, never more of the file than these. Raises InvalidInput."""
        ...


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every neutral tensor of the model, layers before the head. A tied head has no weight of its own: it is the embedding's."""
    architecture = architecture_of(config)
    blocks = {EMBEDDING: architecture.embedding(config)}
    blocks |= {layer_part(number): architecture.layer(config, number) for number in range(config.layers)}
    blocks[HEAD] = architecture.head(config)
    return {
        f"{place}.{parameter.path}": parameter.shape
        for place, block in blocks.items()
        for parameter in parameters(block)
        if not parameter.shared_from
    }


def slabs(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Row ranges [start, stop) of at most SLAB_ELEMENTS weights (one row at least) that cover a matrix."""
    step = max(1, SLAB_ELEMENTS // columns)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
