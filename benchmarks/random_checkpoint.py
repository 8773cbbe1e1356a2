"""Checkpoints of real models' shapes with random weights, in the file layout that the hub has them in."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from benchmarks.models import numbered_words
from quantize.checkpoints.huggingface import file_sources
from quantize.checkpoints.huggingface_config import parse_config

_FILE_BYTES = 1 << 30
_GLM_EDGE = {
    "architectures": ["GlmForCausalLM"],
    "model_type": "glm",
    "head_dim": 128,
    "vocab_size": 59264,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
    "max_position_embeddings": 8192,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
    "eos_token_id": [59246, 59253, 59255],
    "torch_dtype": "bfloat16",
}


@dataclass(frozen=True)
class HubModel:
    """`config` as in the model's config.json; `special` tokens by text, of which the original GLM needs some."""

    config: Mapping[str, Any]
    dtype: str = "bfloat16"
    special: Mapping[str, int] = field(default_factory=dict)


# Of each its config.json on the hub (zai-org/glm-edge-1.5b-chat, zai-org/glm-edge-4b-chat, zai-org/glm-4-9b-chat-hf, THUDM/glm-2b).
MODELS = {
    "glm-edge-1.5b": HubModel(
        {
            **_GLM_EDGE,
            "hidden_size": 2048,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "intermediate_size": 6144,
        }
    ),
    "glm-edge-4b": HubModel(
        {
            **_GLM_EDGE,
            "hidden_size": 3072,
            "num_hidden_layers": 40,
            "num_attention_heads": 24,
            "num_key_value_heads": 6,
            "intermediate_size": 8192,
        }
    ),
    "glm-4-9b": HubModel(
        {
            **_GLM_EDGE,
            "hidden_size": 4096,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "num_key_value_heads": 2,
            "intermediate_size": 13696,
            "vocab_size": 151552,
            "attention_bias": True,
            "partial_rotary_factor": 0.5,
            "max_position_embeddings": 131072,
            "eos_token_id": [151329, 151336, 151338],
        }
    ),
    # The hub has its weights as a pickled file; here they are safetensors, which this project reads as well.
    "glm-2b": HubModel(
        {
            "architectures": ["GLMModel"],
            "model_type": "glm",
            "hidden_size": 2048,
            "num_layers": 36,
            "num_attention_heads": 32,
            "vocab_size": 50304,
            "max_sequence_length": 1024,
            "block_position_encoding": True,
            "relative_encoding": False,
            "attention_scale": 1.0,
            "torch_dtype": "float16",
        },
        "float16",
        {"<|endoftext|>": 50256, "<|startofpiece|>": 50257, "<|endofpiece|>": 50258, "[MASK]": 50260, "[gMASK]": 50263},
    ),
}


def write(folder: Path, model: HubModel) -> int:
    """Makes `folder`; returns the number of weights. At most a file's weights are in memory at once."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(model.config))
    config = parse_config(model.config)
    (folder / "tokenizer.json").write_bytes(numbered_words(config.vocab_size, model.special))
    shapes = {source.name: source.stored_shape for parts in file_sources(config).values() for source in parts}
    files = list(_files(shapes, 2))
    places: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        save_file({name: _tensor(name, shapes[name], model.dtype) for name in names}, folder / file)
        places |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return sum(math.prod(shape) for shape in shapes.values())


def _files(shapes: Mapping[str, tuple[int, ...]], item_bytes: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        more = math.prod(shape) * item_bytes
        if names and size + more > _FILE_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += more
    yield names


def _tensor(name: str, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Of unit gain, so that no layer drowns another; gains near 1 and biases near 0. The same for the same name."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    as_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if len(shape) == 1:
        return ((0.0 if name.endswith("bias") else 1.0) + 0.02 * random.standard_normal(shape, np.float32)).astype(as_dtype)
    gain = 1.0 if "embed" in name else 1.0 / math.sqrt(shape[1])
    return (random.standard_normal(shape, np.float32) * np.float32(gain)).astype(as_dtype)
