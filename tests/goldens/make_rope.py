"""Makes rope.json: what transformers makes of the rotary settings in config.json, of each kind and of each pair of keys that contradict.

Development only, in the environment of `tests.goldens.make`:

    /tmp/goldens/bin/python -m tests.goldens.make_rope

An entry has `config`, the keys beside those of a GLM's config.json; `frequencies` [rotary_dim / 2], radians per position; and
`magnitude`, by which cosines and sines are multiplied.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GlmConfig
from transformers.models.glm.modeling_glm import GlmRotaryEmbedding

HERE = Path(__file__).parent
BASE = {
    "architectures": ["GlmForCausalLM"],
    "model_type": "glm",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "vocab_size": 272,
    "max_position_embeddings": 512,
    "eos_token_id": 256,
}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 128}
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
_PLAIN = {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 1.0}

CONFIGS: dict[str, dict[str, Any]] = {
    "default": {"rope_theta": 500000.0, "partial_rotary_factor": 1.0},
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 20000.0},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "partial_rotary_factor": 1.0},
    "yarn": {"rope_scaling": {"type": "yarn", **_YARN}, "partial_rotary_factor": 1.0},
    "yarn, new form": {"rope_parameters": {**_PLAIN, "rope_type": "yarn", **_YARN}},
    "yarn, attention factor": {"rope_scaling": {"type": "yarn", **_YARN, "attention_factor": 1.5}},
    "yarn, mscale": {"rope_scaling": {"type": "yarn", **_YARN, "mscale": 0.7, "mscale_all_dim": 1.3}},
    "yarn, one mscale": {"rope_scaling": {"type": "yarn", **_YARN, "mscale": 0.7}},
    "yarn, betas": {"rope_scaling": {"type": "yarn", **_YARN, "beta_fast": 8, "beta_slow": 2}, "partial_rotary_factor": 1.0},
    "yarn, not truncated": {"rope_scaling": {"type": "yarn", **_YARN, "truncate": False}, "partial_rotary_factor": 1.0},
    "yarn, no original": {"rope_scaling": {"type": "yarn", "factor": 4.0}, "partial_rotary_factor": 1.0},
    "yarn, original outside": {
        "rope_scaling": {"type": "yarn", "factor": 4.0},
        "original_max_position_embeddings": 64,
        "partial_rotary_factor": 1.0,
    },
    "yarn, two originals": {
        "rope_scaling": {"type": "yarn", **_YARN},
        "original_max_position_embeddings": 64,
        "partial_rotary_factor": 1.0,
    },
    "yarn, no factor": {
        "rope_scaling": {"type": "yarn", "factor": None, "original_max_position_embeddings": 128},
        "partial_rotary_factor": 1.0,
    },
    "yarn, less than one": {"rope_scaling": {"type": "yarn", **_YARN, "factor": 0.5}, "partial_rotary_factor": 1.0},
    "llama3": {"rope_scaling": {"rope_type": "llama3", **_LLAMA3}, "partial_rotary_factor": 1.0},
    "both keys, the old scaled": {"rope_parameters": _PLAIN, "rope_scaling": {"type": "yarn", **_YARN}},
    "both keys, the new scaled": {"rope_parameters": {**_PLAIN, "rope_type": "linear", "factor": 8.0}, "rope_scaling": {"type": "default"}},
    "both keys, the old null": {"rope_parameters": {**_PLAIN, "rope_type": "linear", "factor": 8.0}, "rope_scaling": None},
    "both keys, the old empty": {"rope_parameters": {**_PLAIN, "rope_type": "linear", "factor": 8.0}, "rope_scaling": {}},
    "theta twice": {"rope_parameters": _PLAIN, "rope_theta": 77.0, "partial_rotary_factor": 0.5},
    "theta of the dropped key": {"rope_parameters": _PLAIN, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 77.0},
    "both types": {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2.0}},
}


def main() -> None:
    found = {}
    for name, config in CONFIGS.items():
        read = GlmConfig.from_dict(json.loads(json.dumps({**BASE, **config})))
        embedding = GlmRotaryEmbedding(read)
        frequencies = [float(f"{value:.9g}") for value in embedding.inv_freq.tolist()]
        found[name] = {"config": config, "frequencies": frequencies, "magnitude": float(embedding.attention_scaling)}
    (HERE / "rope.json").write_text(json.dumps({"base": BASE, "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
