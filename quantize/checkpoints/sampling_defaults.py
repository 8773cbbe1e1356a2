"""How a checkpoint's maker has it sampled: pure, trusting nothing. What cannot be used is said, and keeps nobody from importing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from protos.errors import InvalidInput
from protos.manifest import SamplingDefaults
from protos.sampling import PARAMETERS

GGUF_PREFIX = "general.sampling."
# Of transformers' generation_config.json, what changes the text too: each with the value that changes nothing, and without a place here.
_OTHERS: Mapping[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "diversity_penalty": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "bad_words_ids": None,
    "force_words_ids": None,
    "constraints": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": 1,
    "dola_layers": None,
    "watermarking_config": None,
}
_NEUTRAL: Mapping[str, float] = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1, "typical_p": 1}
# llama.cpp's names (gguf's Keys.General). Its repetition penalty is transformers' where it looks at the whole context.
_GGUF_NAMES = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repetition_penalty"}
_GGUF_OTHERS: Mapping[str, Any] = {"xtc_probability": 0, "mirostat": 0, "sequence": None}

_HUGE = 1 << 53  # beyond, and not a number: no parameter goes so far


@dataclass(frozen=True)
class FoundSampling:
    """`unused`: what else is said and does not come to pass here, each as "name value"."""

    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    unused: tuple[str, ...] = ()


def of_generation_config(values: Mapping[str, Any]) -> FoundSampling:
    """Of generation_config.json's object.

    >>> found = of_generation_config({"do_sample": True, "top_p": 0.8, "num_beams": 4})
    >>> found.defaults.said, found.unused
    ({'temperature': 1.0, 'top_p': 0.8}, ('num_beams 4',))

    `do_sample` false is greedy, whatever the rest says. Where it samples and no temperature is given, that is 1, as transformers and
    OpenAI have it. A null is as a key that is not there.
    """
    unused = _different(values, _OTHERS)
    if values.get("do_sample") is False:
        return FoundSampling(SamplingDefaults(temperature=0.0), unused)
    return _found({name: values.get(name) for name in _NEUTRAL}, unused, samples=values.get("do_sample") is True)


def of_gguf(values: Mapping[str, Any]) -> FoundSampling:
    """Of a GGUF file's metadata under GGUF_PREFIX, by their names behind it."""
    unused = _different(values, _GGUF_OTHERS)
    named = {ours: values.get(theirs) for theirs, ours in _GGUF_NAMES.items()}
    if values.get("penalty_last_n") != -1 and named["repetition_penalty"] not in (None, 1):
        unused += (f"penalty_repeat {_short(named['repetition_penalty'])}",)
        named["repetition_penalty"] = None
    return _found(named, unused, samples=False)


def _found(named: Mapping[str, Any], unused: tuple[str, ...], *, samples: bool) -> FoundSampling:
    used: dict[str, Any] = {}
    for name, value in named.items():
        if value is None or (value == _NEUTRAL[name] and name != "temperature"):
            continue  # nothing that is not so anyway; a temperature says that it samples
        if (number := _number(name, value)) is not None:
            used[name] = number
        else:
            unused += (f"{name} {_short(value)}",)
    if (samples or used) and "temperature" not in used:
        used["temperature"] = 1.0
    return FoundSampling(SamplingDefaults(**used), unused)


def _number(name: str, value: object) -> float | None:
    """As the sampler takes it; None for what it does not take."""
    parameter = PARAMETERS.get(name)
    if parameter is None or isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _HUGE:
        return None
    if parameter.annotation is int and value != int(value):
        return None
    number = max(0, int(value)) if parameter.annotation is int else float(f"{value:.7g}")  # GGUF has float32
    try:
        parameter.bounds.check(name, number)
    except InvalidInput:
        return None
    return number


def _different(values: Mapping[str, Any], neutral: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{name} {_short(values[name])}" for name, none in neutral.items() if values.get(name) not in (None, none))


def _short(value: object) -> str:
    return repr(value)[:40]
