"""Text towers of models that see; tests/quantize/test_goldens.py holds what they compute against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from protos.errors import InvalidInput
from protos.manifest import Experts, Manifest
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.checkpoints.huggingface_config import parse_config
from quantize.importing.importer import import_model
from tests.support.checkpoints import write_json
from tests.support.goldens import import_golden

# config.json as published, the keys that matter. GLM-4.1V-9B-Thinking:
GLM_4_1V: dict[str, Any] = {
    "architectures": ["Glm4vForConditionalGeneration"],
    "model_type": "glm4v",
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "glm4v_text",
        "attention_bias": True,
        "eos_token_id": [151329, 151336, 151338, 151348],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "max_position_embeddings": 65536,
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "vocab_size": 151552,
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000,
        "rope_scaling": {"rope_type": "default", "mrope_section": [8, 12, 12]},
    },
    "vision_config": {"model_type": "glm4v", "depth": 24, "hidden_size": 1536},
}
# GLM-4.5V:
GLM_4_5V: dict[str, Any] = {
    "architectures": ["Glm4vMoeForConditionalGeneration"],
    "model_type": "glm4v_moe",
    "text_config": {
        "model_type": "glm4v_moe_text",
        "eos_token_id": [151329, 151336, 151338],
        "attention_bias": True,
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 10944,
        "max_position_embeddings": 65536,
        "moe_intermediate_size": 1408,
        "n_group": 1,
        "topk_group": 1,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 96,
        "num_hidden_layers": 46,
        "num_key_value_heads": 8,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "default", "mrope_section": [8, 12, 12]},
        "routed_scaling_factor": 1.0,
        "vocab_size": 151552,
    },
    "vision_config": {},
}
# GLM-OCR:
GLM_OCR: dict[str, Any] = {
    "architectures": ["GlmOcrForConditionalGeneration"],
    "model_type": "glm_ocr",
    "text_config": {
        "model_type": "glm_ocr_text",
        "eos_token_id": [59246, 59253],
        "head_dim": 128,
        "hidden_size": 1536,
        "intermediate_size": 4608,
        "num_attention_heads": 16,
        "num_hidden_layers": 16,
        "num_nextn_predict_layers": 1,
        "num_key_value_heads": 8,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "partial_rotary_factor": 1.0, "rope_theta": 10000},
        "vocab_size": 59392,
    },
    "vision_config": {},
}


def _with_text(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**config, "text_config": {**config["text_config"], **changes}}


def test_glm_4_1v() -> None:
    config = parse_config(GLM_4_1V)
    assert (config.architecture, config.layers, config.heads, config.kv_heads) == ("Glm4vForConditionalGeneration", 40, 32, 2)
    assert (config.head_dim, config.rotary_dim, config.rotary_halves, config.qkv_bias) == (128, 64, False, True)
    assert (config.rope_theta, config.max_positions, config.tied_head) == (10000.0, 65536, False)
    assert config.eos_token_ids == (151329, 151336, 151338, 151348)


def test_glm_4_5v() -> None:
    config = parse_config(GLM_4_5V)
    assert (config.architecture, config.rotary_dim, config.rotary_halves) == ("Glm4vMoeForConditionalGeneration", 64, True)
    assert (config.qkv_bias, config.qk_norm) == (True, False)
    assert config.experts == Experts(1, 128, 8, 1408, 1408, 1, 1, normalized=True, scale=1.0)


def test_glm_ocr() -> None:
    config = parse_config(GLM_OCR)
    assert (config.architecture, config.head_dim, config.rotary_dim, config.qkv_bias) == ("GlmOcrForConditionalGeneration", 128, 128, False)
    assert (config.norm_epsilon, config.max_positions) == (1e-5, 131072)


def test_what_is_left_out_is_what_transformers_assumes() -> None:
    """configuration_glm4v.py: unlike GLM-4, all of a head turns."""
    left_out = ("num_key_value_heads", "rms_norm_eps", "partial_rotary_factor", "rope_theta", "rope_scaling", "max_position_embeddings")
    text = {key: value for key, value in GLM_4_1V["text_config"].items() if key not in left_out}
    config = parse_config({**GLM_4_1V, "text_config": text})
    assert (config.kv_heads, config.norm_epsilon, config.rotary_dim, config.rope_theta, config.max_positions) == (2, 1e-5, 128, 1e4, 32768)
    text = {key: value for key, value in GLM_4_5V["text_config"].items() if key not in (*left_out, "attention_bias", "head_dim")}
    config = parse_config({**GLM_4_5V, "text_config": {**text, "hidden_size": 96 * 64}})
    assert (config.head_dim, config.rotary_dim, config.qkv_bias, config.kv_heads) == (64, 32, True, 8)


def test_what_transformers_never_looks_at_changes_nothing() -> None:
    """The biases of GLM-4.1V and GLM-OCR, and norms of queries and keys, are in the code and not in config.json."""
    assert parse_config(_with_text(GLM_4_1V, attention_bias=False)).qkv_bias
    assert not parse_config(_with_text(GLM_OCR, attention_bias=True)).qkv_bias
    assert not parse_config(_with_text(GLM_4_5V, use_qk_norm=True)).qk_norm


def test_ends_and_a_tied_head_may_be_said_in_either_place() -> None:
    both = {**_with_text(GLM_4_1V, eos_token_id=5), "eos_token_id": [7, 5]}
    assert parse_config(both, {"eos_token_id": 9}).eos_token_ids == (5, 7, 9)
    assert parse_config({**_with_text(GLM_4_1V, eos_token_id=None), "eos_token_id": 7}).eos_token_ids == (7,)
    assert parse_config(_with_text(GLM_4_1V, tie_word_embeddings=True)).tied_head
    assert parse_config({**GLM_4_1V, "tie_word_embeddings": True}).tied_head


@pytest.mark.parametrize("named", [{"architectures": ["Glm46VForConditionalGeneration"]}, {"architectures": None, "model_type": "glmga"}])
def test_an_outer_class_has_the_tower_that_its_text_config_names(named: dict[str, Any]) -> None:
    """GLM-4.6V-Flash's is dense, others have experts."""
    assert parse_config({**GLM_4_1V, **named}).architecture == "Glm4vForConditionalGeneration"
    assert parse_config({**GLM_4_5V, **named}).architecture == "Glm4vMoeForConditionalGeneration"
    unnamed = {key: value for key, value in GLM_4_1V["text_config"].items() if key != "model_type"}
    assert parse_config({**GLM_4_1V, **named, "text_config": unnamed}).architecture == "Glm4vForConditionalGeneration"
    with pytest.raises(InvalidInput, match="a text_config of model_type 'llama' is not supported") as caught:
        parse_config({**_with_text(GLM_4_1V, model_type="llama"), **named})
    assert "glm4v_moe_text" in caught.value.advice


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**GLM_4_1V, "text_config": None}, "text_config must be an object, not None"),
        ({**GLM_4_1V, "text_config": [1]}, "text_config must be an object"),
        ({**GLM_4_1V, "architectures": ["Glm46VForConditionalGeneration"], "text_config": None}, "text_config of model_type None"),
        (_with_text(GLM_4_1V, hidden_size=None), "hidden_size is missing"),
        (_with_text(GLM_4_1V, head_dim=64), r"head_dim is not hidden_size / num_attention_heads \(128\)"),
        (_with_text(GLM_OCR, head_dim=40), "no multiple of 16"),
        (_with_text(GLM_4_1V, num_attention_heads=0), "num_attention_heads must be"),
        (_with_text(GLM_4_1V, rope_scaling={"type": "longrope"}), "longrope"),
        (_with_text(GLM_4_1V, eos_token_id="x"), "eos_token_id"),
        ({**GLM_4_1V, "eos_token_id": [151552]}, "eos_token_id must be a token id below vocab_size"),
        (_with_text(GLM_4_5V, n_routed_experts=None), "n_routed_experts is missing"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_a_value_that_cannot_be_is_named(config: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        parse_config(config)
    assert "\n" not in caught.value.detail + caught.value.advice


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """All as float32: numpy has no bfloat16 of its own."""
    tensors: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            tensors |= {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    return tensors


def _write_tensors(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        path.unlink()
    save_file(tensors, folder / "model.safetensors")


def _import(folder: Path, store: ArtifactStore) -> Manifest:
    with open_checkpoint(folder) as checkpoint:
        return import_model(checkpoint, store, "again")


@pytest.mark.parametrize("golden", ["glm-4.1v", "glm-4.5v", "glm-4.6v", "glm-ocr"])
def test_vision_is_left_out_by_name_and_nothing_else(tmp_path: Path, golden: str) -> None:
    manifest, store = import_golden(golden, tmp_path)
    folder = tmp_path / "checkpoint"
    tensors = _read_tensors(folder)
    vision = {name for name in tensors if name.startswith("model.visual.")}
    assert len(vision) > 10
    notice = f"text only: it sees no images here; {len(vision)} tensors of its vision (model.visual.*) are left out"
    assert notice in manifest.provenance.notice
    text = {name: values for name, values in tensors.items() if name not in vision}
    _write_tensors(folder, text)
    assert _import(folder, store).parts == manifest.parts
    for name in (
        "model.language_model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.input_layernorm.weight",
        "visual.x",
        "model.visualx",
    ):
        _write_tensors(folder, {**tensors, name: np.zeros(16, np.float32)})
        with pytest.raises(InvalidInput, match=f"has not: {name}"), open_checkpoint(folder):
            pytest.fail("opened")


def test_a_tied_head_of_a_tower_is_its_embedding(tmp_path: Path) -> None:
    import_golden("glm-4.1v", tmp_path)
    folder = tmp_path / "checkpoint"
    tensors = _read_tensors(folder)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", _with_text(config, tie_word_embeddings=True))
    with open_checkpoint(folder) as checkpoint:  # it stores one that differs
        assert not checkpoint.config.tied_head
    _write_tensors(folder, {name: values for name, values in tensors.items() if name != "lm_head.weight"})
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.config.tied_head
        assert np.array_equal(checkpoint.read("embedding.weight", 3, 7), tensors["model.language_model.embed_tokens.weight"][3:7])


def test_glm_edge_v_is_glm_edge_beside_its_vision(tmp_path: Path) -> None:
    manifest, store = import_golden("glm-edge", tmp_path)
    folder = tmp_path / "checkpoint"
    vision = {
        "model.vision.vit.model.vision_model.post_layernorm.weight": np.ones(8, np.float32),
        "model.vision.adapter.linear.linear.weight": np.ones((8, 8), np.float32),
    }
    _write_tensors(folder, {**_read_tensors(folder), **vision})
    with pytest.raises(InvalidInput, match=r"has not: model\.vision\.adapter"), open_checkpoint(folder):
        pytest.fail("opened")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "vision_config": {"hidden_size": 1152}, "boi_token_id": 59256})
    seen = _import(folder, store)
    assert seen.parts == manifest.parts
    assert "2 tensors of its vision (model.vision.*) are left out" in seen.provenance.notice
