"""What the importer needs of a checkpoint, whatever file it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from protos.manifest import ModelConfig, Provenance
from quantize.blocks import Floats

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

    def read(self, name: str, start: int, stop: int) -> Floats:
        """Rows [start, stop) of a neutral tensor as contiguous float32, never more of the file than these. Raises InvalidInput."""
        ...


def layer_tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Neutral tensors of any one layer, by name: qkv is the rows of q, then k, then v; gate_up is gate, then up."""
    hidden, fused = config.hidden_size, config.query_size + 2 * config.kv_size
    shapes: dict[str, tuple[int, ...]] = {
        "input_norm": (hidden,),
        "qkv.weight": (fused, hidden),
        "o.weight": (hidden, config.query_size),
        "post_norm": (hidden,),
        "gate_up.weight": (2 * config.intermediate_size, hidden),
        "down.weight": (hidden, config.intermediate_size),
    }
    if config.qkv_bias:
        shapes["qkv.bias"] = (fused,)
    return shapes


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every neutral tensor of the model. A tied head has no weight of its own: it is the embedding's."""
    vocabulary = (config.vocab_size, config.hidden_size)
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": vocabulary}
    for layer in range(config.layers):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in layer_tensor_shapes(config).items()}
    shapes["head.norm"] = (config.hidden_size,)
    if not config.tied_head:
        shapes["head.weight"] = vocabulary
    return shapes


def slabs(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Row ranges [start, stop) of at most SLAB_ELEMENTS weights (one row at least) that cover a matrix."""
    step = max(1, SLAB_ELEMENTS // columns)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
