"""Scaled rotary positions as a GGUF file's metadata ask for them, read as llama.cpp does (llama-model.cpp, llama-context.cpp)."""

from __future__ import annotations

from protos.manifest import RopeScaling
from quantize.checkpoints.gguf_file import GgufFile
from quantize.rope import linear, yarn, yarn_magnitude

_FACTORS = 1e-3, 1e6
# Of {architecture}.rope: the rest would turn other pairs, or otherwise.
_KNOWN = {
    "dimension_count",
    "dimension_sections",  # of a text's token all turn alike
    "freq_base",
    "scale_linear",
    "scaling.type",
    "scaling.factor",
    "scaling.finetuned",
    "scaling.original_context_length",
    "scaling.attn_factor",
    "scaling.yarn_beta_fast",
    "scaling.yarn_beta_slow",
}


def rope_scaling(file: GgufFile, theta: float, rotary_dim: int, positions: int) -> RopeScaling | None:
    """None where pairs turn as `theta` says. `positions`: the context's. Raises InvalidInput naming what is not supported.

    A factor without a type means linear scaling, whose old name is scale_linear; type "none" outdoes a factor.
    """
    rope = f"{file.text('general.architecture')}.rope."
    for key in file.keys(rope):
        if key.removeprefix(rope) not in _KNOWN:
            file.refuse(f"{key} is not supported")
    kind = file.text(f"{rope}scaling.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        file.refuse(f"rope scaling type {kind[:40]!r} is not supported, only linear and yarn")
    factor = file.number(f"{rope}scaling.factor", 0.0, _FACTORS[1], file.number(f"{rope}scale_linear", 0.0, _FACTORS[1], 0.0)) or 1.0
    length = file.number(f"{rope}scaling.attn_factor", 1e-3, 1e3, 1.0)
    if kind == "none" or (kind == "linear" and factor == 1):
        factor, kind = 1.0, "linear"
    if factor < _FACTORS[0] or theta <= 1:
        file.refuse(f"rotary positions cannot be scaled by {factor:g} with a base of {theta:g}")
    if kind == "yarn":
        return yarn(
            theta,
            rotary_dim,
            factor,
            file.integer(f"{rope}scaling.original_context_length", 1, 1 << 24, positions),
            beta_fast=file.number(f"{rope}scaling.yarn_beta_fast", 1e-3, 1e6, 32.0),
            beta_slow=file.number(f"{rope}scaling.yarn_beta_slow", 1e-3, 1e6, 1.0),
            magnitude=length * yarn_magnitude(factor),
        )
    if factor == 1 and length == 1:
        return None
    return linear(theta, rotary_dim, factor, magnitude=length)
