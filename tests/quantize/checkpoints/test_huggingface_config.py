from __future__ import annotations

from typing import Any

import pytest

from protos.errors import InvalidInput
from quantize.checkpoints.huggingface_config import parse_config, parse_json_object
from tests.support.checkpoints import TinyGlm, config_json

# GLM-Edge-1.5B-Chat, as published (the keys that matter).
GLM_EDGE = {
    "architectures": ["GlmForCausalLM"],
    "attention_bias": False,
    "eos_token_id": [59246, 59253, 59255],
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 8192,
    "model_type": "glm",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "partial_rotary_factor": 1.0,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": 59264,
}


def test_glm_edge() -> None:
    config = parse_config(GLM_EDGE)
    assert (config.rotary_dim, config.head_dim, config.kv_heads) == (128, 128, 4)
    assert config.eos_token_ids == (59246, 59253, 59255)
    assert config.tied_head


def test_the_old_and_the_new_rope_form_are_one() -> None:
    old, new = (parse_config(config_json(TinyGlm(rotary_fraction=0.25, head_dim=32, new_rope_form=form))) for form in (False, True))
    assert old == new
    assert old.rotary_dim == 8


def test_what_is_left_out_is_what_transformers_assumes() -> None:
    plain = {
        key: value for key, value in GLM_EDGE.items() if key not in ("partial_rotary_factor", "rms_norm_eps", "head_dim", "rope_theta")
    }
    config = parse_config(plain)
    assert (config.rotary_dim, config.norm_epsilon, config.head_dim, config.rope_theta) == (64, 1.5625e-07, 128, 10000.0)


def test_yarn_stretches_the_context_of_a_stated_original() -> None:
    """GLM-4's makers: add this to config.json, whose max_position_embeddings stays."""
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
    assert parse_config({**GLM_EDGE, "rope_scaling": yarn}).max_positions == 32768
    assert parse_config({**GLM_EDGE, "rope_scaling": yarn, "max_position_embeddings": 65536}).max_positions == 65536
    for scaling in ({"type": "yarn", "factor": 4.0}, {"type": "dynamic", "factor": 4.0}, {"type": "linear", "factor": 4.0}):
        assert parse_config({**GLM_EDGE, "rope_scaling": scaling}).max_positions == 8192


def test_every_end_token_of_both_files_counts_once() -> None:
    plain = {**GLM_EDGE, "eos_token_id": 7}
    assert parse_config(plain, {"eos_token_id": [9, 7]}).eos_token_ids == (7, 9)
    assert parse_config({**plain, "eos_token_id": None}).eos_token_ids == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": 0}, "hidden_size must be"),
        ({"hidden_size": True}, "hidden_size must be"),
        ({"hidden_size": 1 << 40}, "hidden_size must be"),
        ({"hidden_size": "2048"}, "hidden_size must be"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_attention_heads": 5}, "no multiple of num_key_value_heads"),
        ({"head_dim": 40}, "no multiple of 16"),
        ({"partial_rotary_factor": 0.055}, "not an even number"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor must be"),
        ({"rope_theta": float("nan")}, "rope_theta must be"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps must be"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"eos_token_id": [59264]}, "eos_token_id"),
        ({"eos_token_id": ["</s>"]}, "eos_token_id"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be"),
        ({"rope_scaling": {"type": "longrope", "factor": 2}}, "rope type 'longrope'"),
        ({"rope_parameters": {"rope_type": "proportional"}}, "rope type 'proportional'"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor must be"),
        ({"rope_scaling": {"type": "yarn", "factor": 4, "attention_factor": "1"}}, "attention_factor must be"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}, "rope_theta": 1.0}, "rope_theta must be above 1"),
        ({"rope_scaling": {"type": "llama3", "factor": 4, "low_freq_factor": 4, "high_freq_factor": 1}}, "high_freq_factor"),
        ({"rope_scaling": {"type": ["yarn"]}}, "type must be a text"),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2}}}, "for 'full_attention' are not supported"),
        ({"rope_scaling": "yarn"}, "rope_scaling must be"),
        ({"rope_parameters": 5}, "rope_parameters must be"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_that_cannot_be_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        parse_config({**GLM_EDGE, **change})
    assert "\n" not in caught.value.detail
    assert caught.value.advice


@pytest.mark.parametrize(
    "named", [{"architectures": ["LlamaForCausalLM"]}, {"architectures": [], "model_type": "llava"}, {"architectures": [["x"]]}]
)
def test_another_architecture_is_refused_with_what_is_supported(named: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="is not supported") as caught:
        parse_config({**GLM_EDGE, **named})
    assert "GlmForCausalLM" in caught.value.advice


def test_model_type_alone_is_enough() -> None:
    assert parse_config({key: value for key, value in GLM_EDGE.items() if key != "architectures"}).architecture == "GlmForCausalLM"


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_names_the_file(data: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"config\.json"):
        parse_json_object(data, "config.json")
