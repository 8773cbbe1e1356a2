"""What the importer and the graph builder must know of a family of decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from protos.manifest import ModelConfig
from quantize.config_reader import ConfigReader
from quantize.layers.decoder import Residual
from quantize.layers.forward import Doubles, LayerRun, Steps
from quantize.layers.graph_builder import GraphBuilder
from quantize.sources import Shapes, Sources


@dataclass(frozen=True)
class Folding:
    """How a rotation of the residual stream folds into the matrices of layers, by their names in a layer.

    `readers`: matrices that multiply the normed stream, with the norm whose gain they take over; `writers`: those whose product is
    added to it. The value rows of "qkv.weight", and the columns of "o.weight", turn by heads too.
    """

    readers: Mapping[str, str]
    writers: frozenset[str]


@dataclass(frozen=True)
class Architecture:
    """One family, composed of functions; nothing else in the program tells families apart.

    Neutral tensors are called "embedding.…", "head.…" and "layers.N.…". A name that ends in "weight" is a matrix [out, in], stored by
    blocks; anything else is stored as it is, in float32.
    """

    names: tuple[str, ...]  # in config.json's `architectures`; the first is the manifest's
    model_type: str  # config.json's, which counts where `architectures` is left out
    parse_config: Callable[[ConfigReader], ModelConfig]
    outer_parts: Callable[[ModelConfig], Mapping[str, Shapes]]
    """Tensors of "embedding" and "head", in the order of storing. A tied head has no "weight" of its own."""
    layer_parts: Callable[[ModelConfig, int], Mapping[str, Shapes]]
    """Parts of a layer ("" for the layer itself, else what follows "layers.N."): their tensors, in the order of storing, which is that in
    which `run_layer` wants the matrices. The first part keeps the layer's KV cache."""
    hugging_face: Callable[[ModelConfig], Sources]
    ignored: Callable[[ModelConfig, str], bool]
    """Whether a tensor of this name in a Hugging Face file changes nothing in what the model says."""
    add_embedding: Callable[[GraphBuilder, str], str]
    """(…, name of the token ids) -> name of the hidden rows."""
    add_layer: Callable[[GraphBuilder, int, Residual], Residual]
    add_head: Callable[[GraphBuilder, str, str], None]
    """(…, name of the hidden rows, name that the logits get)."""
    run_layer: Callable[[LayerRun], Steps]
    """The layer in float64, by which the scales of an int8 cache are found."""
    final_norm: Callable[[LayerRun], Doubles] = lambda run: run.rms_norm("norm")
    """In float64 too; `vectors` are the head's."""
    with_tokens: Callable[[ModelConfig, Mapping[str, int]], ModelConfig] = lambda config, special: config
    """(…, special tokens of the tokenizer by text) -> the config with what only they tell. Raises InvalidInput."""
    file_prefix: str = ""
    """What some Hugging Face files put before every tensor's name."""
    folding: Callable[[ModelConfig], Folding] | None = None
    """None: the residual stream may not be rotated."""
    used_share: Callable[[ModelConfig, str], float] = lambda config, part: 1.0
    """Of a layer's part (named as in `layer_parts`): the share of its matrices that one token reads."""
