"""Scaled rotary positions as config.json asks for them."""

from __future__ import annotations

from protos.manifest import RopeScaling
from quantize.config_reader import ConfigReader, wrong
from quantize.rope import linear, llama3, yarn, yarn_magnitude

_MOST_POSITIONS = 1 << 24
_KINDS = ("default", "linear", "dynamic", "yarn", "llama3")
_FACTORS = 1e-3, 1e6
_ORIGINAL = "original_max_position_embeddings"


def max_positions(reader: ConfigReader, default: int | None = None) -> int:
    """Of the context: max_position_embeddings, or what YaRN stretches a stated original to where that is more. (GLM-4's makers ask for
    YaRN by an entry beside a max_position_embeddings that stays.)"""
    positions = _positions(reader, default)
    if _kind(reader) != "yarn" or not (reader.has(_ORIGINAL) or reader.rope().has(_ORIGINAL)):
        return positions
    factor, original = _stretch(reader, positions)
    return max(positions, min(int(factor * original), _MOST_POSITIONS))


def rope_scaling(reader: ConfigReader, rotary_dim: int, default_positions: int | None = None) -> RopeScaling | None:
    """None where pairs turn as rope_theta says. `default_positions`: what the family assumes without max_position_embeddings.

    A dynamic scaling begins behind max_position_embeddings, where our contexts end. Raises InvalidInput with the name of another kind.
    """
    rope, theta, positions, kind = reader.rope(), reader.rope_theta(), _positions(reader, default_positions), _kind(reader)
    if kind not in _KINDS:
        wrong(f"rope type {kind[:40]!r} is not supported, only {', '.join(_KINDS)}")
    if kind in ("default", "dynamic"):
        return None
    if theta <= 1:
        wrong(f"rope_theta must be above 1 where positions are scaled, not {theta:g}")
    if kind == "linear":
        return linear(theta, rotary_dim, rope.number("factor", *_FACTORS))
    if kind == "llama3":
        low, high = (rope.number(f"{name}_freq_factor", *_FACTORS) for name in ("low", "high"))
        if high <= low:
            wrong(f"high_freq_factor ({high:g}) must be above low_freq_factor ({low:g})")
        return llama3(theta, rotary_dim, rope.number("factor", *_FACTORS), _original(reader, positions), low, high)
    return _yarn(reader, theta, rotary_dim, positions)


def check_unscaled(reader: ConfigReader) -> None:
    """For families whose own code knows no scaled positions. Raises InvalidInput where config.json asks for them."""
    if (kind := _kind(reader)) != "default":
        wrong(f"rope type {kind[:40]!r} is not supported for this architecture")


def _yarn(reader: ConfigReader, theta: float, rotary_dim: int, positions: int) -> RopeScaling:
    rope = reader.rope()
    factor, original = _stretch(reader, positions)
    shares = [rope.number(key, 0.0, 1e3, 0.0) for key in ("mscale", "mscale_all_dim")]
    magnitude = None
    if rope.has("attention_factor"):
        magnitude = rope.number("attention_factor", 1e-6, 1e6)
    elif all(shares):
        magnitude = yarn_magnitude(factor, shares[0]) / yarn_magnitude(factor, shares[1])
    return yarn(
        theta,
        rotary_dim,
        factor,
        original,
        beta_fast=rope.number("beta_fast", 0.0, 1e6, 0.0) or 32.0,
        beta_slow=rope.number("beta_slow", 0.0, 1e6, 0.0) or 1.0,
        truncate=rope.boolean("truncate", True),
        magnitude=magnitude,
    )


def _stretch(reader: ConfigReader, positions: int) -> tuple[float, int]:
    """YaRN's (factor, positions of the first training)."""
    original = _original(reader, positions)
    return reader.rope().number("factor", *_FACTORS, positions / original), original


def _original(reader: ConfigReader, positions: int) -> int:
    """What stands beside the rest counts before what the scaling's own settings say (standardize_rope_params)."""
    return reader.integer(_ORIGINAL, 1, _MOST_POSITIONS, reader.rope().integer(_ORIGINAL, 1, _MOST_POSITIONS, positions))


def _positions(reader: ConfigReader, default: int | None) -> int:
    return reader.integer("max_position_embeddings", 1, _MOST_POSITIONS, default)


def _kind(reader: ConfigReader) -> str:
    rope = reader.rope()
    return rope.text("rope_type", rope.text("type", "default"))
