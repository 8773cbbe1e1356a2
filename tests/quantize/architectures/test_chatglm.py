"""GLM-4-9B-chat as first published: the golden checkpoint under the names of its own code gives the same artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from protos.errors import InvalidInput
from quantize.checkpoints.formats import open_checkpoint
from quantize.checkpoints.huggingface_config import parse_config
from quantize.importing.importer import import_model
from quantize.layers.positions import rotary_tables
from tests.support.checkpoints import write_json
from tests.support.goldens import import_golden

# THUDM/glm-4-9b-chat's config.json as published (the keys that matter).
GLM_4_9B_CHAT = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1.5625e-07,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 40,
    "original_rope": True,
    "padded_vocab_size": 151552,
    "post_layer_norm": True,
    "rmsnorm": True,
    "rope_ratio": 500,
    "seq_length": 131072,
    "tie_word_embeddings": False,
    "eos_token_id": [151329, 151336, 151338],
}


def test_glm_4_9b_chat() -> None:
    config = parse_config(GLM_4_9B_CHAT)
    assert (config.layers, config.heads, config.kv_heads, config.head_dim, config.rotary_dim) == (40, 32, 2, 128, 64)
    assert (config.rope_theta, config.qkv_bias, config.tied_head, config.norm_epsilon) == (5e6, True, False, 1.5625e-07)
    assert config.eos_token_ids == (151329, 151336, 151338)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rmsnorm": False}, "rmsnorm must be true"),
        ({"add_bias_linear": True}, "add_bias_linear must be false"),
        ({"post_layer_norm": False}, "post_layer_norm must be true"),
        ({"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm must be false"),
        ({"multi_query_attention": False}, "multi_query_attention must be true"),
        ({"multi_query_attention": None}, "multi_query_attention must be true"),
        ({"position_encoding_2d": True}, "position_encoding_2d must be false"),
        ({"pre_seq_len": 128}, "pre_seq_len is not supported"),
        ({"quantization_bit": 4}, "quantization_bit is not supported"),
        ({"original_rope": False, "kv_channels": 16}, r"kv_channels / 2 \(8\) is no multiple of 16"),
        ({"multi_query_group_num": 3}, "no multiple of multi_query_group_num"),
        ({"kv_channels": 40}, r"kv_channels \(40\) is no multiple of 16"),
        ({"num_layers": 10**9}, "num_layers must be"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "rope type 'yarn' is not supported for this architecture"),
        ({"padded_vocab_size": 1000}, "eos_token_id must be a token id below vocab_size"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_that_cannot_be_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse_config({**GLM_4_9B_CHAT, **change})


# THUDM/chatglm3-6b's as published, where it differs; ChatGLM2-6B's is the same but for its name.
CHATGLM3_6B = {
    **GLM_4_9B_CHAT,
    "num_layers": 28,
    "padded_vocab_size": 65024,
    "seq_length": 8192,
    "layernorm_epsilon": 1e-5,
    "eos_token_id": 2,
}


def test_chatglm3_6b() -> None:
    plain = {key: value for key, value in CHATGLM3_6B.items() if key != "rope_ratio"}
    config = parse_config({**plain, "pre_seq_len": None, "quantization_bit": 0})
    assert (config.layers, config.vocab_size, config.rope_theta, config.rotary_dim, config.rotary_halves) == (28, 65024, 1e4, 64, False)
    assert config.eos_token_ids == (2,)


def test_chatglm2_divides_positions_where_others_multiply_theta() -> None:
    """modeling_chatglm.py of THUDM/chatglm2-6b-32k: `seq_idx / self.rope_ratio`, and of chatglm3-6b-32k: `base * self.rope_ratio`."""
    cos, _ = rotary_tables(parse_config({**CHATGLM3_6B, "seq_length": 40, "_name_or_path": "THUDM/chatglm2-6b-32k", "rope_ratio": 16}))
    assert np.allclose(cos[32], np.cos(2 * 1e4 ** (-np.arange(0, 64, 2) / 64)), atol=1e-6)
    cos, _ = rotary_tables(parse_config({**CHATGLM3_6B, "seq_length": 40, "_name_or_path": "THUDM/chatglm3-6b-32k", "rope_ratio": 50}))
    assert np.allclose(cos[32], np.cos(32 * 5e5 ** (-np.arange(0, 64, 2) / 64)), atol=1e-6)


def test_cogagents_rotary_pairs_are_half_a_head_apart() -> None:
    """zai-org/cogagent-9b-20241220 (vLLM, chatglm.py, is_neox_style)."""
    assert parse_config({**GLM_4_9B_CHAT, "original_rope": False}).rotary_halves


@pytest.mark.parametrize("named", ["ChatGLMModel", "ChatGLMForConditionalGeneration"])
def test_glm_4v_9b_is_its_text_tower(tmp_path: Path, named: str) -> None:
    manifest, store = import_golden("glm-4-9b-chat", tmp_path)
    vision: dict[str, np.ndarray] = {
        "transformer.vision.boi": np.ones((1, 1, 8), np.float16),
        "transformer.vision.linear_proj.linear_proj.weight": np.ones((8, 8)),
    }
    folder = _as_first_published(tmp_path / "checkpoint", vision, architectures=[named], vision_config={"hidden_size": 1792})
    with open_checkpoint(folder) as checkpoint:
        found = import_model(checkpoint, store, "glm-4v")
    assert found.parts == manifest.parts
    assert "2 tensors of its vision (transformer.vision.*) are left out" in found.provenance.notice
    write_json(folder / "config.json", {**json.loads((folder / "config.json").read_text()), "vision_config": None})
    with pytest.raises(InvalidInput, match=r"has not: transformer\.vision\.boi"), open_checkpoint(folder):
        pytest.fail("opened")


def test_the_same_weights_under_these_names_are_the_same_parts(tmp_path: Path) -> None:
    manifest, store = import_golden("glm-4-9b-chat", tmp_path)
    folder = _as_first_published(tmp_path / "checkpoint", {"transformer.rotary_pos_emb.inv_freq": np.ones(4, np.float16)})
    with open_checkpoint(folder) as checkpoint:
        found = import_model(checkpoint, store, "first-published")
    assert found.parts == manifest.parts
    assert found.config.architecture == "ChatGLMModel"


def _as_first_published(folder: Path, further: dict[str, np.ndarray], **changes: Any) -> Path:
    """The golden checkpoint in `folder` under the names of its own code, with further tensors."""
    shards = sorted(folder.glob("model-*.safetensors"))
    tensors = {name: values for shard in shards for name, values in load_file(shard).items()}
    for path in [*shards, folder / "model.safetensors.index.json"]:
        path.unlink()
    save_file({**_renamed(tensors, layers=3), **further}, folder / "model.safetensors")
    theirs = json.loads((folder / "config.json").read_text())
    shape = {
        "num_layers": 3,
        "hidden_size": 72,
        "ffn_hidden_size": 104,
        "num_attention_heads": 4,
        "kv_channels": 16,
        "multi_query_group_num": 1,
        "padded_vocab_size": 272,
        "rope_ratio": 1.0,
        "layernorm_epsilon": 1e-5,
        "seq_length": 256,
        "eos_token_id": theirs["eos_token_id"],
    }
    write_json(folder / "config.json", {**GLM_4_9B_CHAT, **shape, **changes})
    return folder


def _renamed(tensors: dict[str, np.ndarray], layers: int) -> dict[str, np.ndarray]:
    renamed = {
        "transformer.embedding.word_embeddings.weight": tensors["model.embed_tokens.weight"],
        "transformer.encoder.final_layernorm.weight": tensors["model.norm.weight"],
        "transformer.output_layer.weight": tensors["lm_head.weight"],
    }
    for layer in range(layers):
        old, new = f"model.layers.{layer}.", f"transformer.encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            fused = [tensors[f"{old}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            renamed[f"{new}self_attention.query_key_value.{kind}"] = np.concatenate(fused)
        for name, theirs in (
            ("input_layernorm", "input_layernorm"),
            ("post_attention_layernorm", "post_attention_layernorm"),
            ("self_attention.dense", "self_attn.o_proj"),
            ("mlp.dense_h_to_4h", "mlp.gate_up_proj"),
            ("mlp.dense_4h_to_h", "mlp.down_proj"),
        ):
            renamed[f"{new}{name}.weight"] = tensors[f"{old}{theirs}.weight"]
    return renamed
