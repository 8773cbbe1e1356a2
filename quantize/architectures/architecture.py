"""What the rest of the program must know of a family of decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from protos.manifest import ModelConfig
from quantize.config_reader import ConfigReader
from quantize.layers.operators import Block
from quantize.sources import FileNames


@dataclass(frozen=True)
class Architecture:
    """One family, as functions of its config; nothing else in the program tells families apart.

    Neutral tensors are called "embedding.…", "head.…" and "layers.N.…", then by `Parameter.path` in the block.
    """

    names: tuple[str, ...]  # in config.json's `architectures`; the first is the manifest's
    model_type: str  # config.json's, which counts where `architectures` is left out
    parse_config: Callable[[ConfigReader], ModelConfig]
    embedding: Callable[[ModelConfig], Block]
    """Token ids to the residual stream."""
    layer: Callable[[ModelConfig, int], Block]
    """The residual stream to the residual stream; the parts of a layer are those of its parameters. Attention's part is the first, and
    keeps the KV cache."""
    head: Callable[[ModelConfig], Block]
    """The residual stream to logits."""
    file_names: Callable[[ModelConfig], FileNames]
    """Of tensors in Hugging Face files."""
    ignored: Callable[[ModelConfig, str], bool]
    """Whether a tensor of this name in a Hugging Face file changes nothing in what the model says."""
    with_tokens: Callable[[ModelConfig, Mapping[str, int]], ModelConfig] = lambda config, special: config
    """(…, special tokens of the tokenizer by text) -> the config with what only they tell. Raises InvalidInput."""
    file_prefix: str = ""
    """What some Hugging Face files put before every tensor's name."""
    vision: str = ""
    """What the names of tensors begin with that only images need: left out where config.json has a `vision_config`."""
