from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from protos.errors import InvalidInput
from protos.manifest import Experts, parse
from quantize.artifact.costs import stage_cost
from quantize.artifact.graph import build_stage_graph
from quantize.checkpoints.formats import open_checkpoint
from quantize.checkpoints.huggingface_config import parse_config
from quantize.importing.importer import import_model
from quantize.parts import layer_parts, stage_parts
from tests.support.goldens import import_golden

# GLM-4.5-Air's config.json as published (the keys that matter).
GLM_AIR = {
    "architectures": ["Glm4MoeForCausalLM"],
    "attention_bias": True,
    "eos_token_id": [151329, 151336, 151338],
    "first_k_dense_replace": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "max_position_embeddings": 131072,
    "model_type": "glm4_moe",
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 96,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 46,
    "num_key_value_heads": 8,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.0,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "use_qk_norm": False,
    "vocab_size": 151552,
}


def test_glm_4_5_air() -> None:
    config = parse_config(GLM_AIR)
    assert (config.rotary_dim, config.rotary_halves, config.qk_norm, config.qkv_bias, config.kv_heads) == (64, True, False, True, 8)
    assert config.experts == Experts(1, 128, 8, 1408, 1408, 1, 1, normalized=True, scale=1.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_routed_experts": None}, "n_routed_experts is missing"),
        ({"n_routed_experts": 10**9}, "n_routed_experts must be"),
        ({"n_group": 3}, "are not 3 groups"),
        ({"n_group": 128}, "are not 128 groups"),
        ({"n_group": 4, "topk_group": 5}, "topk_group must be"),
        ({"n_group": 32, "topk_group": 1}, "num_experts_per_tok must be a whole number from 1 to 4"),
        ({"num_experts_per_tok": 129}, "num_experts_per_tok must be"),
        ({"first_k_dense_replace": 47}, "first_k_dense_replace must be"),
        ({"routed_scaling_factor": "x"}, "routed_scaling_factor must be"),
        ({"norm_topk_prob": 1}, "norm_topk_prob must be"),
        ({"head_dim": 48}, r"partial_rotary_factor \(24\) is no multiple of 16"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_that_cannot_be_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse_config({**GLM_AIR, **change})


def test_the_manifest_keeps_what_the_config_says(tmp_path: Path) -> None:
    manifest, _ = import_golden("glm-4.5-groups", tmp_path)
    assert parse(manifest.to_bytes()) == manifest
    assert manifest.config.experts == Experts(0, 24, 3, 24, 24, 4, 2, normalized=False, scale=1.7)
    assert [part.name for part in manifest.parts] == [
        *("embedding", "positions"),
        *("layers.0.attention", "layers.0.experts.0-15", "layers.0.experts.16-23"),
        *("layers.1.attention", "layers.1.experts.0-15", "layers.1.experts.16-23"),
        "head",
    ]
    assert manifest.quantization.rotated


def test_a_token_costs_what_the_experts_it_chose_cost(tmp_path: Path) -> None:
    """3 of 24 experts, in groups of 16 and 8: an eighth of each group."""
    manifest, _ = import_golden("glm-4.5-groups", tmp_path)
    attention, first, second = (manifest.part(name).cost for name in layer_parts(manifest, 1))
    assert first.read_bytes == round(first.weight_bytes / 8)
    assert second.weight_bytes == first.weight_bytes // 2
    assert (first.macs, second.macs) == (16 * 3 * 24 * 72 // 8, 8 * 3 * 24 * 72 // 8)
    assert (first.kv_bytes_per_token, attention.kv_bytes_per_token) == (0, 2 * 4 * 16)
    assert attention.read_bytes == attention.weight_bytes
    cost = stage_cost(manifest, stage_parts(manifest, 1, 2))
    assert cost.read_bytes == attention.read_bytes + first.read_bytes + second.read_bytes
    assert cost.weight_bytes > 2 * cost.read_bytes
    assert cost.attention_macs_per_position == 2 * 2 * 16


def test_a_layer_goes_whole(tmp_path: Path) -> None:
    manifest, _ = import_golden("glm-4.5-groups", tmp_path)
    parts = stage_parts(manifest, 0, 1)
    assert build_stage_graph(manifest, parts)
    with pytest.raises(InvalidInput, match="no stage"):
        build_stage_graph(manifest, [part for part in parts if not part.endswith("16-23")])


def test_blocks_that_make_a_text_depend_on_its_company_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="block size 128 is not for a mixture of experts"):
        import_golden("glm-4.5", tmp_path, block_size=128)


def test_a_prediction_layer_past_the_last_is_left_out_and_named_and_nothing_else(tmp_path: Path) -> None:
    manifest, store = import_golden("glm-4.5", tmp_path)
    assert manifest.provenance.notice == "left out: 1 layer that would predict further tokens (model.layers.3)"
    folder = tmp_path / "checkpoint"
    tensors = load_file_as_float(folder / "model.safetensors")
    extra = [name for name in tensors if name.startswith("model.layers.3.")]
    assert len(extra) > 20
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 3
    without = {name: values for name, values in tensors.items() if name not in extra}
    save_file(without, folder / "model.safetensors")
    with open_checkpoint(folder) as checkpoint:
        assert import_model(checkpoint, store, "without") == replace(manifest, provenance=replace(manifest.provenance, notice=""))
    save_file({**without, "model.layers.2.mlp.experts.8.up_proj.weight": np.zeros((40, 72), np.float32)}, folder / "model.safetensors")
    with pytest.raises(InvalidInput, match=r"has not: model\.layers\.2\.mlp\.experts\.8"), open_checkpoint(folder):
        pass


def load_file_as_float(path: Path) -> dict[str, np.ndarray]:
    return {name: values.astype(np.float32) for name, values in load_file(path).items()}


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    import_golden("glm-4.5", tmp_path)
    folder = tmp_path / "checkpoint"
    tensors = load_file_as_float(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.experts.5.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InvalidInput, match=r"no tensor model\.layers\.1\.mlp\.experts\.5\.down_proj\.weight"), open_checkpoint(folder):
        pass
