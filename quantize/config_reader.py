"""Values of a checkpoint's config.json within stated bounds: pure, trusting nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from protos.errors import InvalidInput

_DEFAULT_THETA = 10_000.0
# onnxruntime's GroupQueryAttention takes no other head sizes with rotary positions.
_HEAD_DIM_STEP = 16
# What the old form of rotary settings has beside the rest.
_BESIDE = ("rope_theta", "partial_rotary_factor")


class ConfigReader:
    """`config` is config.json's object, `generation` generation_config.json's.

    Takes the old form of rotary settings (rope_theta, partial_rotary_factor beside the rest, rope_scaling) and the new one (in
    rope_parameters); where both are there, in transformers' order (configuration_utils.py, convert_rope_params_to_dict).
    Everything raises InvalidInput naming the key at fault.
    """

    def __init__(self, config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> None:
        self._values = config
        self._generation = generation or {}

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            wrong(f"{key} must be a whole number from {low} to {high}, not {short(value)}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            wrong(f"{key} must be a number from {low:g} to {high:g}, not {short(value)}")
        return float(value)

    def has(self, key: str) -> bool:
        """Whether it is there, and not null."""
        return self._values.get(key) is not None

    def text(self, key: str, default: str) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            wrong(f"{key} must be a text, not {short(value)}")
        return value

    def boolean(self, key: str, default: bool = False) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            wrong(f"{key} must be true or false, not {short(value)}")
        return value

    def text_config(self, defaults: Mapping[str, Any]) -> ConfigReader:
        """What `text_config` says of the text tower of a model that sees; `defaults` are for what it leaves out. Ends of sequence and a
        tied head may be said beside it."""
        text = self._values.get("text_config")
        if not isinstance(text, dict):
            wrong(f"text_config must be an object, not {short(text)}")
        said = {key: value for key, value in text.items() if value is not None}
        beside = ConfigReader({**said, "eos_token_id": self._values.get("eos_token_id")}, self._generation)
        tied = self.boolean("tie_word_embeddings") or ConfigReader(said).boolean("tie_word_embeddings")
        ends = ConfigReader(said).eos_token_ids() + beside.eos_token_ids()
        return ConfigReader({**defaults, **said, "tie_word_embeddings": tied, "eos_token_id": list(ends)})

    def with_values(self, **values: Any) -> ConfigReader:
        """With these in place of what the file says."""
        return ConfigReader({**self._values, **values}, self._generation)

    def texts(self, key: str) -> list[str] | None:
        """None where it is left out."""
        value = self._values.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            wrong(f"{key} must be a list of texts, not {short(value)}")
        return value

    def is_null(self, key: str) -> bool:
        """Whether it is there and says null, which may mean something else than left out."""
        return key in self._values and self._values[key] is None

    def check_activation(self, *supported: str) -> None:
        """hidden_act is one of these, or left out."""
        if self._values.get("hidden_act", supported[0]) not in supported:
            wrong(f"hidden_act {short(self._values['hidden_act'])} is not supported, only {supported[0]}")

    def heads(self, default_kv_heads: int | None = None) -> tuple[int, int]:
        """(query heads, KV heads)."""
        heads = self.integer("num_attention_heads", 1, 1024)
        kv_heads = self.integer("num_key_value_heads", 1, 1024, default_kv_heads)
        if heads % kv_heads:
            wrong(f"num_attention_heads ({heads}) is no multiple of num_key_value_heads ({kv_heads})")
        return heads, kv_heads

    def head_dim(self, default: int | None = None, *, key: str = "head_dim") -> int:
        head_dim = self.integer(key, 1, 1024, default)
        if head_dim % _HEAD_DIM_STEP:
            wrong(f"{key} ({head_dim}) is no multiple of {_HEAD_DIM_STEP}, which the attention operator needs")
        return head_dim

    def rotary_dim(self, head_dim: int, default_fraction: float) -> int:
        rotary_dim = int(head_dim * self.rope().number("partial_rotary_factor", 1e-6, 1.0, default_fraction))
        if rotary_dim < 2 or rotary_dim % 2:
            wrong(f"head_dim x partial_rotary_factor ({rotary_dim}) is not an even number")
        return rotary_dim

    def rope_theta(self) -> float:
        return self.rope().number("rope_theta", 1.0, 1e12, _DEFAULT_THETA)

    def rope(self) -> ConfigReader:
        """Rotary settings: rope_scaling's where there is anything in it, else rope_parameters'; what they lack stands beside the rest."""
        chosen: dict[str, Any] = {}
        for key in ("rope_parameters", "rope_scaling"):
            parameters = self._values.get(key)
            if parameters is not None and not isinstance(parameters, dict):
                wrong(f"{key} must be an object, not {short(parameters)}")
            chosen = parameters or chosen
        if nested := [key for key, value in chosen.items() if isinstance(value, dict)]:
            wrong(f"rotary positions of their own for {short(nested[0])} are not supported")
        return ConfigReader({**{key: self._values.get(key) for key in _BESIDE}, **chosen})

    def vocab_size(self, key: str = "vocab_size") -> int:
        return self.integer(key, 2, 1 << 22)

    def eos_token_ids(self, vocab_size: int | None = None) -> tuple[int, ...]:
        """Every end-of-sequence id of either file, each once: a model that honours only the first talks to itself."""
        ids: list[int] = []
        vocab_size = vocab_size or self.vocab_size()
        for values in (self._values, self._generation):
            found = values.get("eos_token_id")
            for value in found if isinstance(found, Sequence) and not isinstance(found, str) else [] if found is None else [found]:
                if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
                    wrong(f"eos_token_id must be a token id below vocab_size ({vocab_size}), not {short(value)}")
                ids.append(value)
        return tuple(dict.fromkeys(ids))

    def _get(self, key: str, default: Any) -> Any:
        value = self._values.get(key)
        if value is None and default is None:
            wrong(f"{key} is missing")
        return default if value is None else value


def wrong(what: str) -> NoReturn:
    raise InvalidInput(f"config.json: {what}", advice="give a GLM checkpoint folder as its publisher made it")


def short(value: object) -> str:
    return repr(value)[:60]
