"""config.json of a Hugging Face GLM checkpoint as a ModelConfig: pure, trusting nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from protos.errors import InvalidInput
from protos.manifest import ModelConfig

ARCHITECTURES = ("GlmForCausalLM",)
# What transformers' GlmConfig assumes when a key is left out (configuration_glm.py).
_DEFAULT_KV_HEADS, _DEFAULT_HEAD_DIM, _DEFAULT_EPSILON = 2, 128, 1.5625e-07
_DEFAULT_ROTARY_FRACTION, _DEFAULT_THETA, _DEFAULT_POSITIONS = 0.5, 10_000.0, 131_072
# onnxruntime's rotary GroupQueryAttention takes no other head sizes.
_HEAD_DIM_STEP = 16


def parse_json_object(data: bytes, file: str) -> dict[str, Any]:
    """Raises InvalidInput naming `file`."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file} is not JSON", advice="get the checkpoint again") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{file} is not a JSON object", advice="get the checkpoint again")
    return value


def parse_config(config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> ModelConfig:
    """The model of config.json and, for end-of-sequence tokens, generation_config.json; `tied_head` is what config.json claims.

    Takes the old form (rope_theta, partial_rotary_factor beside the rest) and the new one (in rope_parameters).
    Raises InvalidInput naming the key at fault, or listing what is supported.
    """
    _check_architecture(config)
    reader = _Reader(config)
    heads = reader.integer("num_attention_heads", 1, 1024)
    kv_heads = reader.integer("num_key_value_heads", 1, 1024, _DEFAULT_KV_HEADS)
    if heads % kv_heads:
        _wrong(f"num_attention_heads ({heads}) is no multiple of num_key_value_heads ({kv_heads})")
    head_dim = reader.integer("head_dim", 1, 1024, _DEFAULT_HEAD_DIM)
    if head_dim % _HEAD_DIM_STEP:
        _wrong(f"head_dim ({head_dim}) is no multiple of {_HEAD_DIM_STEP}, which the attention operator needs")
    rope = _Reader({**config, **_rope_parameters(config)})
    rotary_dim = int(head_dim * rope.number("partial_rotary_factor", 1e-6, 1.0, _DEFAULT_ROTARY_FRACTION))
    if rotary_dim < 2 or rotary_dim % 2:
        _wrong(f"head_dim x partial_rotary_factor ({rotary_dim}) is not an even number")
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        _wrong(f"hidden_act {config['hidden_act']!r} is not supported, only silu")
    vocab_size = reader.integer("vocab_size", 2, 1 << 22)
    return ModelConfig(
        architecture=ARCHITECTURES[0],
        hidden_size=reader.integer("hidden_size", 1, 1 << 16),
        layers=reader.integer("num_hidden_layers", 1, 1024),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=reader.integer("intermediate_size", 1, 1 << 20),
        vocab_size=vocab_size,
        norm_epsilon=reader.number("rms_norm_eps", 1e-20, 0.1, _DEFAULT_EPSILON),
        rope_theta=rope.number("rope_theta", 1.0, 1e12, _DEFAULT_THETA),
        rotary_dim=rotary_dim,
        qkv_bias=reader.boolean("attention_bias"),
        tied_head=reader.boolean("tie_word_embeddings"),
        max_positions=reader.integer("max_position_embeddings", 1, 1 << 24, _DEFAULT_POSITIONS),
        eos_token_ids=_eos(config, generation or {}, vocab_size),
    )


class _Reader:
    """Values of a JSON object within stated bounds."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            _wrong(f"{key} must be a whole number from {low} to {high}, not {_short(value)}")
        return value

    def number(self, key: str, low: float, high: float, default: float) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
            _wrong(f"{key} must be a number from {low:g} to {high:g}, not {_short(value)}")
        return float(value)

    def boolean(self, key: str) -> bool:
        value = self._get(key, False)
        if not isinstance(value, bool):
            _wrong(f"{key} must be true or false, not {_short(value)}")
        return value

    def _get(self, key: str, default: Any) -> Any:
        value = self._values.get(key)
        if value is None and default is None:
            _wrong(f"{key} is missing")
        return default if value is None else value


def _check_architecture(config: Mapping[str, Any]) -> None:
    named = config.get("architectures")
    found = (
        named
        if isinstance(named, list) and named
        else [{"glm": ARCHITECTURES[0]}.get(str(config.get("model_type")), config.get("model_type"))]
    )
    if found[0] not in ARCHITECTURES:
        raise InvalidInput(
            f"config.json: architecture {_short(found[0])} is not supported", advice=f"supported architectures: {', '.join(ARCHITECTURES)}"
        )


def _rope_parameters(config: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in ("rope_parameters", "rope_scaling"):
        parameters = config.get(key)
        if parameters is None:
            continue
        if not isinstance(parameters, dict):
            _wrong(f"{key} must be an object, not {_short(parameters)}")
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        if kind != "default":
            _wrong(f"{key}: rope type {_short(kind)} is not supported, only default")
        return parameters
    return {}


def _eos(config: Mapping[str, Any], generation: Mapping[str, Any], vocab_size: int) -> tuple[int, ...]:
    """Every end-of-sequence id of either file, each once: a model that honours only the first talks to itself."""
    ids: list[int] = []
    for values in (config, generation):
        found = values.get("eos_token_id")
        for value in found if isinstance(found, Sequence) and not isinstance(found, str) else [] if found is None else [found]:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
                _wrong(f"eos_token_id must be a token id below vocab_size ({vocab_size}), not {_short(value)}")
            ids.append(value)
    return tuple(dict.fromkeys(ids))


def _wrong(what: str) -> NoReturn:
    raise InvalidInput(f"config.json: {what}", advice="give a GLM checkpoint folder as its publisher made it")


def _short(value: object) -> str:
    return repr(value)[:60]
