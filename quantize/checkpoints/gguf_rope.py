"""Scaled rotary positions as a GGUF file's metadata ask for them, read as llama.cpp does (llama-model.cpp, llama-context.cpp)."""

from __future__ import annotations

import numpy as np

from protos.manifest import RopeScaling
from quantize.checkpoints.gguf_file import GgufFile
from quantize.rope import linear, yarn, yarn_magnitude
from quantize.sources import SourceTensor

_FACTORS = 1e-3, 1e6
_FACTORS_TENSOR = "rope_freqs.weight"
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

    A factor without a type means linear scaling, whose old name is scale_linear; type "none" outdoes a factor. Llama 3's converter writes
    how much slower each pair is as a tensor, which comes on top.
    """
    scaling = _said(file, theta, rotary_dim, positions)
    if not factor_tensors(file):
        return scaling
    file.check([SourceTensor(_FACTORS_TENSOR, (rotary_dim // 2,))])
    slower = file.read(_FACTORS_TENSOR, 0, rotary_dim // 2)
    if not (np.isfinite(slower).all() and (slower > _FACTORS[0]).all()):
        file.refuse(f"{_FACTORS_TENSOR} holds a value that is no factor")
    plain = scaling or linear(theta, rotary_dim, 1.0)
    frequencies = (frequency / float(factor) for frequency, factor in zip(plain.frequencies, slower, strict=True))
    return RopeScaling("llama3", tuple(float(f"{frequency:.12g}") for frequency in frequencies), plain.magnitude)


def factor_tensors(file: GgufFile) -> frozenset[str]:
    """Tensors that only rotary positions need: llama.cpp looks at them for Llama alone."""
    return file.tensor_names & {_FACTORS_TENSOR} if file.text("general.architecture") == "llama" else frozenset()


def _said(file: GgufFile, theta: float, rotary_dim: int, positions: int) -> RopeScaling | None:
    """By the metadata."""
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
