from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from protos.errors import InvalidInput
from protos.manifest import Experts, Latent, parse
from quantize.architectures.registry import architecture_of
from quantize.artifact.costs import stage_cost
from quantize.artifact.graph import build_stage_graph
from quantize.checkpoints.formats import open_checkpoint
from quantize.checkpoints.huggingface_config import parse_config
from quantize.layers.operators import Norm
from quantize.parts import stage_parts
from tests.support.goldens import import_golden

# GLM-4.7-Flash's config.json as published (the keys that matter).
FLASH = {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "attention_bias": False,
    "eos_token_id": [154820, 154827, 154829],
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "kv_lora_rank": 512,
    "max_position_embeddings": 202752,
    "model_type": "glm4_moe_lite",
    "moe_intermediate_size": 1536,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 20,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 47,
    "num_key_value_heads": 20,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 1.0,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.8,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "v_head_dim": 256,
    "vocab_size": 154880,
}


def test_glm_4_7_flash() -> None:
    config = parse_config(FLASH)
    assert config.latent == Latent(rank=512, query_rank=768, key_dim=192, value_dim=256)
    assert (config.heads, config.kv_heads, config.head_dim, config.rotary_dim, config.rotary_halves) == (20, 1, 576, 64, False)
    assert config.experts == Experts(1, 64, 4, 1536, 1536, 1, 1, normalized=True, scale=1.8)


def test_latents_are_normed_with_an_epsilon_of_their_own() -> None:
    """transformers', whatever rms_norm_eps says: too small a difference for the golden checkpoints to show."""
    config = parse_config(FLASH)
    norms = [each for each in architecture_of(config).layer(config, 0).operators if isinstance(each, Norm)]
    assert {norm.gain.name: norm.epsilon for norm in norms} == {"input_norm": 1e-5, "q_a_norm": 1e-6, "kv_norm": 1e-6, "post_norm": 1e-5}


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({}, 1),
        ({"first_k_dense_replace": None}, 1),
        ({"mlp_layer_types": ["dense"] * 2 + ["sparse"] * 45}, 2),
        ({"mlp_layer_types": ["dense"] * 47}, 47),
        ({"mlp_layer_types": ["sparse"] * 47}, 0),
    ],
)
def test_which_layers_are_dense(change: dict[str, Any], first: int) -> None:
    config = parse_config({**FLASH, **change})
    assert config.experts is not None
    assert config.experts.first_layer == first


def test_queries_of_the_stream_itself_are_said_by_null_and_not_by_silence() -> None:
    silent = {key: value for key, value in FLASH.items() if key != "q_lora_rank"}
    for given, rank in (({**silent, "q_lora_rank": None}, 0), (silent, 768)):
        config = parse_config(given)
        assert config.latent is not None
        assert config.latent.query_rank == rank


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_key_value_heads": 4}, r"num_key_value_heads \(4\) is not num_attention_heads \(20\)"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not 1"),
        ({"kv_lora_rank": 500}, r"kv_lora_rank \+ qk_rope_head_dim \(564\) is no multiple of 16"),
        ({"kv_lora_rank": 0}, "kv_lora_rank must be"),
        ({"q_lora_rank": "x"}, "q_lora_rank must be"),
        ({"v_head_dim": 10**9}, "v_head_dim must be"),
        ({"rope_interleave": False, "qk_rope_head_dim": 24, "kv_lora_rank": 40}, r"qk_rope_head_dim \(24\) is no multiple of 16"),
        ({"rope_interleave": 1}, "rope_interleave must be"),
        ({"mlp_layer_types": ["dense", "sparse"]}, "mlp_layer_types is not a kind for each of 47 layers"),
        ({"mlp_layer_types": ["sparse"] * 46 + ["dense"]}, "mlp_layer_types is not a kind for each"),
        ({"mlp_layer_types": "dense"}, "mlp_layer_types must be a list of texts"),
        ({"n_routed_experts": None}, "n_routed_experts is missing"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope type 'longrope' is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale_all_dim": 1.0}}, "mscale_all_dim is not supported"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_that_cannot_be_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse_config({**FLASH, **change})


def test_the_manifest_keeps_what_the_config_says(tmp_path: Path) -> None:
    manifest, _ = import_golden("glm-4.7-flash", tmp_path)
    assert parse(manifest.to_bytes()) == manifest
    assert manifest.config.latent == Latent(rank=24, query_rank=20, key_dim=12, value_dim=14)
    assert [part.name for part in manifest.parts] == [
        *("embedding", "positions", "layers.0", "layers.1.attention", "layers.1.experts.0-5", "head")
    ]
    assert manifest.quantization.rotated


def test_a_bias_of_the_stream_forbids_the_rotation(tmp_path: Path) -> None:
    manifest, _ = import_golden("glm-4.7-flash-plain", tmp_path)
    assert not manifest.quantization.rotated


def test_a_token_takes_one_vector_of_the_cache(tmp_path: Path) -> None:
    manifest, _ = import_golden("glm-4.7-flash", tmp_path)
    parts = stage_parts(manifest, 0, 2)
    cost = stage_cost(manifest, parts)
    assert cost.kv_bytes_per_token == 2 * (24 + 8) * 4
    assert stage_cost(manifest, parts, "int8").kv_bytes_per_token == 2 * (24 + 8)
    assert cost.attention_macs_per_position == 2 * 2 * 3 * (24 + 8)


@pytest.mark.parametrize("golden", ["glm-4.7-flash", "glm-4.7-flash-plain"])
def test_operators_are_the_graphs_nodes(tmp_path: Path, golden: str) -> None:
    """Of a dense layer; of experts nobody counts those that a step happens to choose."""
    manifest, _ = import_golden(golden, tmp_path)
    parts = stage_parts(manifest, 0, 1)
    assert stage_cost(manifest, parts).operators == len(onnx.load_model_from_string(build_stage_graph(manifest, parts)).graph.node)


def test_heads_matrices_are_cut_out_of_the_files_one(tmp_path: Path) -> None:
    import_golden("glm-4.7-flash", tmp_path)
    folder = tmp_path / "checkpoint"
    stored = load_file(folder / "model.safetensors")["model.layers.1.self_attn.kv_b_proj.weight"].astype(np.float32)
    by_head = stored.reshape(3, 12 + 14, 24)
    with open_checkpoint(folder) as checkpoint:
        for head in range(3):
            assert np.array_equal(checkpoint.read(f"layers.1.attention.k_up.{head}.weight", 3, 20), by_head[head, :12].T[3:20])
            assert np.array_equal(checkpoint.read(f"layers.1.attention.v_up.{head}.weight", 1, 14), by_head[head, 12:][1:])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model.layers.0.self_attn.kv_b_proj.weight": None}, r"no tensor model\.layers\.0\.self_attn\.kv_b_proj\.weight"),
        ({"model.layers.0.self_attn.kv_b_proj.weight": (77, 24)}, r"shape \[77, 24\], config\.json asks for \[78, 24\]"),
        ({"model.layers.1.self_attn.q_proj.weight": (60, 40)}, r"has not: model\.layers\.1\.self_attn\.q_proj\.weight"),
        ({"model.layers.0.self_attn.o_proj.bias": (40,)}, r"has not: model\.layers\.0\.self_attn\.o_proj\.bias"),
    ],
    ids=lambda value: str(value)[-50:],
)
def test_tensors_of_another_model_are_named(tmp_path: Path, change: dict[str, tuple[int, ...] | None], says: str) -> None:
    import_golden("glm-4.7-flash", tmp_path)
    folder = tmp_path / "checkpoint"
    tensors = {name: values.astype(np.float32) for name, values in load_file(folder / "model.safetensors").items()}
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = np.ones(shape, np.float32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InvalidInput, match=says), open_checkpoint(folder):
        pass
