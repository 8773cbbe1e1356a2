"""Makes the golden checkpoints: tiny random models as transformers saves them, and what transformers computes with them.

Development only; needs an environment of its own:

    python -m venv /tmp/goldens && /tmp/goldens/bin/pip install torch==2.13.0 'transformers>=5' safetensors
    /tmp/goldens/bin/python -m tests.goldens.make            # all, or the names of some

Each folder under tests/goldens/ is a checkpoint in the layout that the hub has, with `reference.npz` beside it: `ids` int64 [sequences,
tokens], `logits` float32 [sequences, tokens, V], computed in float32 from the stored (rounded) weights.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

HERE = Path(__file__).parent
SEQUENCES, TOKENS, VOCABULARY = 3, 80, 272


@dataclass(frozen=True)
class Golden:
    """`config` is transformers'; the rest is how its files differ from what transformers writes today."""

    model_type: str
    dtype: str
    config: dict[str, Any]
    old_form: bool = False  # rotary settings beside the rest of config.json
    claims_tied: bool = False  # config.json says so, although a head is stored and differs
    shard_bytes: int = 1 << 30
    extra_layer: bool = False  # a next-token prediction layer past the last, to be ignored
    rope_scaling: dict[str, Any] | None = None  # stands in config.json beside rope_parameters, which it outdoes
    text_type: str = ""  # of a model that sees: `config` is then its text tower's, which has this model_type
    changes: dict[str, Any] = field(default_factory=dict)  # of config.json; None: the key is left out
    seed: int = 0
    shape: tuple[int, int] = (SEQUENCES, TOKENS)


_ODD = {"hidden_size": 72, "intermediate_size": 104, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": VOCABULARY}
_COMMON = {"max_position_embeddings": 256, "rms_norm_eps": 1e-5, "eos_token_id": [256, 260], "pad_token_id": 256}

_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "vocab_size": VOCABULARY,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "attention_bias": True,
}
_MOE = {
    "hidden_size": 72,
    "intermediate_size": 104,
    "num_hidden_layers": 3,
    "vocab_size": VOCABULARY,
    "moe_intermediate_size": 40,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.2,
    "norm_topk_prob": True,
}

_LATENT = {
    "hidden_size": 40,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "vocab_size": 264,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "qk_nope_head_dim": 12,
    "v_head_dim": 14,
    "moe_intermediate_size": 12,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "routed_scaling_factor": 1.8,
}


_SEES = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "vocab_size": 160,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "eos_token_id": [150, 152],
    "pad_token_id": 150,
}
_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 4,
    "temporal_patch_size": 1,
}


def _rope(fraction: float, theta: float = 10000.0) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": fraction}}


def _sections(fraction: float, *sections: int) -> dict[str, Any]:
    """Pairs that turn by time, height and width: of text all three are one."""
    return {"rope_parameters": {**_rope(fraction)["rope_parameters"], "mrope_section": list(sections)}}


GOLDENS = {
    # As GLM-Edge: heads x head_dim is not hidden, sizes are no multiple of a block, the stored head is not the embedding.
    "glm-edge": Golden(
        "glm",
        "bfloat16",
        {**_ODD, **_COMMON, **_rope(1.0), "num_key_value_heads": 2, "head_dim": 32, "attention_bias": False},
        old_form=True,
        claims_tied=True,
        seed=1,
    ),
    # As GLM-4-9B-chat.
    "glm-4-9b-chat": Golden(
        "glm",
        "float16",
        {**_ODD, **_COMMON, **_rope(0.5), "num_key_value_heads": 1, "head_dim": 16, "attention_bias": True},
        shard_bytes=100_000,
        seed=2,
    ),
    # As GLM-4-0414.
    "glm-4-0414": Golden(
        "glm4",
        "bfloat16",
        {**_ODD, **_COMMON, **_rope(0.5), "num_key_value_heads": 2, "head_dim": 32, "attention_bias": True},
        shard_bytes=150_000,
        seed=3,
    ),
    "glm-4-0414-tied": Golden(
        "glm4",
        "float32",
        {
            **_COMMON,
            **_rope(0.5, 500000.0),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "vocab_size": VOCABULARY,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 16,
            "attention_bias": False,
            "tie_word_embeddings": True,
        },
        old_form=True,
        seed=4,
    ),
    # As GLM-4.5: a dense layer first, routed experts beside a shared one, a prediction layer past the last.
    "glm-4.5": Golden(
        "glm4_moe",
        "bfloat16",
        {**_COMMON, **_rope(0.5), **_MOE, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "attention_bias": True},
        extra_layer=True,
        seed=5,
    ),
    # Experts in several groups and parts, norms of queries and keys, no dense layer.
    "glm-4.5-groups": Golden(
        "glm4_moe",
        "bfloat16",
        {
            **_COMMON,
            **_rope(1.0),
            **_MOE,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "attention_bias": False,
            "use_qk_norm": True,
            "num_hidden_layers": 2,
            "first_k_dense_replace": 0,
            "n_routed_experts": 24,
            "n_group": 4,
            "topk_group": 2,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "routed_scaling_factor": 1.7,
            "norm_topk_prob": False,
        },
        old_form=True,
        shard_bytes=200_000,
        seed=6,
    ),
    # A longer context than it was trained on, said in the old key beside the new one.
    "glm-4-0414-yarn": Golden(
        "glm4",
        "bfloat16",
        {**_SMALL, **_COMMON, **_rope(0.5)},
        rope_scaling={"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "attention_factor": 1.3},
        shape=(1, TOKENS),
        seed=7,
    ),
    # As GLM-4.1V: what config.json says of the text is in text_config, rotary settings in the form of its first release.
    "glm-4.1v": Golden(
        "glm4v",
        "bfloat16",
        {**_SEES, **_sections(0.5, 1, 1, 2)},
        text_type="glm4v_text",
        old_form=True,
        seed=7,
        shape=(2, 40),
    ),
    # As GLM-4.5V: experts, and rotary pairs half a head apart.
    "glm-4.5v": Golden(
        "glm4v_moe",
        "bfloat16",
        {
            **_SEES,
            **_sections(0.5, 2, 3, 3),
            "head_dim": 32,
            "num_attention_heads": 2,
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 1.3,
            "attention_bias": True,
        },
        text_type="glm4v_moe_text",
        seed=8,
        shape=(2, 40),
    ),
    # As GLM-4.6V-Flash: an outer class whose text tower is what text_config's model_type says.
    "glm-4.6v": Golden(
        "glm46v",
        "float16",
        {**_SEES, **_sections(1.0, 2, 3, 3), "num_key_value_heads": 3},
        text_type="glm4v_text",
        seed=9,
        shape=(2, 40),
    ),
    # As GLM-OCR: heads wider than hidden / heads, no biases, a prediction layer past the last.
    "glm-ocr": Golden(
        "glm_ocr",
        "bfloat16",
        {**_SEES, **_sections(1.0, 4, 6, 6), "num_attention_heads": 2, "head_dim": 32, "hidden_size": 32},
        text_type="glm_ocr_text",
        extra_layer=True,
        seed=10,
        shape=(2, 40),
    ),
    # As GLM-4.7-Flash: attention over a latent, of which no size is a multiple of a block.
    "glm-4.7-flash": Golden(
        "glm4_moe_lite",
        "bfloat16",
        {
            **_COMMON,
            **_rope(1.0, 1000000.0),
            **_LATENT,
            "qk_rope_head_dim": 8,
            "kv_lora_rank": 24,
            "q_lora_rank": 20,
            "num_hidden_layers": 2,
        },
        old_form=True,
        extra_layer=True,
        changes={"mlp_layer_types": None, "first_k_dense_replace": 1},
        shape=(SEQUENCES, 16),
        seed=7,
    ),
    # Queries of the stream itself, biases, pairs half of what turns apart, experts in groups, more dense layers than one.
    "glm-4.7-flash-plain": Golden(
        "glm4_moe_lite",
        "bfloat16",
        {
            **_COMMON,
            **_rope(1.0),
            **_LATENT,
            "qk_rope_head_dim": 16,
            "kv_lora_rank": 32,
            "q_lora_rank": None,
            "rope_interleave": False,
            "attention_bias": True,
            "mlp_layer_types": ["dense", "dense", "sparse"],
            "n_group": 2,
            "topk_group": 1,
        },
        shape=(SEQUENCES, 16),
        seed=8,
    ),
}


def make(name: str, golden: Golden) -> None:
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(golden.seed)
    auto = AutoModelForImageTextToText if golden.text_type else AutoModelForCausalLM
    model = auto.from_config(_config(golden), attn_implementation="eager")
    _draw(model)
    model = model.to(getattr(torch, golden.dtype))
    model.save_pretrained(folder, max_shard_size=golden.shard_bytes)
    if golden.rope_scaling:
        _edit_config(folder, rope_scaling=golden.rope_scaling)
    # Read back, and not converted: a conversion rounds the rotary frequencies too.
    model = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    _as_the_hub_has_it(folder, golden)
    ids = torch.randint(0, min(256, golden.config["vocab_size"]), golden.shape)
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits
    np.savez_compressed(folder / "reference.npz", ids=ids.numpy(), logits=logits.numpy().astype(np.float32))
    print(name, f"{sum(path.stat().st_size for path in folder.iterdir()) / 1024:.0f} KiB")


def _config(golden: Golden) -> Any:
    if golden.text_type:
        vision = {**_VISION, "out_hidden_size": golden.config["hidden_size"]}
        return AutoConfig.for_model(golden.model_type, text_config={"model_type": golden.text_type, **golden.config}, vision_config=vision)
    plain = {key: value for key, value in golden.config.items() if key != "tie_word_embeddings"}
    return AutoConfig.for_model(golden.model_type, tie_word_embeddings=golden.config.get("tie_word_embeddings", False), **plain)


def _draw(model: torch.nn.Module) -> None:
    """Weights of unit gain, so that no layer drowns another; norms near one; biases small."""
    for name, values in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("inv_freq"):
            continue
        with torch.no_grad():
            if "norm" in name and values.dim() == 1:
                values.normal_(1.0, 0.1)
            elif "experts.down_proj" in name:  # a choice at a draw, which int8 turns, must not outweigh all else
                values.normal_(0.0, 0.15 * values.shape[-1] ** -0.5)
            elif "mlp.gate.weight" in name:
                values.normal_(0.0, 2.0 * values.shape[-1] ** -0.5)
            elif values.dim() == 1:
                values.normal_(0.0, 0.1)
            elif "embed_tokens" in name:
                values.normal_(0.0, 1.0)
            else:
                values.normal_(0.0, values.shape[-1] ** -0.5)


def _as_the_hub_has_it(folder: Path, golden: Golden) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    text = config["text_config"] if golden.text_type else config
    if golden.old_form:
        rope = text.pop("rope_parameters")
        sections = {"rope_scaling": {"type": "default", "mrope_section": rope.pop("mrope_section")}} if "mrope_section" in rope else {}
        text |= {key: value for key, value in rope.items() if key != "rope_type"} | sections
    if golden.claims_tied:
        config["tie_word_embeddings"] = True
    if golden.extra_layer:
        text["num_nextn_predict_layers"] = 1
        _add_extra_layer(folder, "model.language_model." if golden.text_type else "model.", text["num_hidden_layers"])
    config = {key: value for key, value in {**config, **golden.changes}.items() if key not in golden.changes or value is not None}
    path.write_text(json.dumps(config, indent=2) + "\n")


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=2) + "\n")


def _add_extra_layer(folder: Path, prefix: str, layers: int) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    last, beyond = (f"{prefix}layers.{number}." for number in (layers - 1, layers))
    extra = {name.replace(last, beyond): value.clone() for name, value in tensors.items() if name.startswith(last)}
    hidden = tensors[f"{prefix}norm.weight"]
    extra[f"{beyond}eh_proj.weight"] = torch.zeros(len(hidden), 2 * len(hidden), dtype=hidden.dtype)
    for name in ("enorm", "hnorm", "shared_head.norm"):
        extra[f"{beyond}{name}.weight"] = torch.ones_like(hidden)
    save_file({**tensors, **extra}, path, metadata={"format": "pt"})


if __name__ == "__main__":
    for wanted in sys.argv[1:] or list(GOLDENS):
        make(wanted, GOLDENS[wanted])
