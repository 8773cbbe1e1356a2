"""Rotary position tables."""

from __future__ import annotations

import numpy as np

from protos.manifest import ModelConfig, RopeScaling
from quantize.blocks import Floats, padded

# GroupQueryAttention takes tables of a multiple of 8 columns.
_COLUMNS_STEP = 8


def table_columns(config: ModelConfig) -> int:
    """Of the model's tables, see `columns_of`."""
    return columns_of(config.rotary_dim)


def columns_of(rotary_dim: int) -> int:
    """rotary_dim / 2, rounded up to what the operator takes (never beyond head_dim / 2: head_dim is a multiple of 16)."""
    return padded(rotary_dim // 2, _COLUMNS_STEP)


def turns(rotary_dim: int, theta: float, positions: int, scaling: RopeScaling | None = None) -> tuple[Floats, Floats]:
    """(cos, sin), each float32 [positions, rotary_dim / 2]: angle of position p and pair i is p * theta^(-2i / rotary_dim), or p times
    `scaling`'s frequency of the pair, and both are `scaling`'s magnitude as long.

    Computed in float64, rounded once. Source: RoFormer (arXiv:2104.09864), eq. 15.
    """
    pairs = np.arange(0, rotary_dim, 2, dtype=np.float64)
    frequencies = np.array(scaling.frequencies) if scaling else theta ** (-pairs / rotary_dim)
    angles = np.outer(np.arange(positions, dtype=np.float64), frequencies)
    length = scaling.magnitude if scaling else 1.0
    return (length * np.cos(angles)).astype(np.float32), (length * np.sin(angles)).astype(np.float32)


def rotary_tables(config: ModelConfig) -> tuple[Floats, Floats]:
    """(cos, sin) as `turns`, each float32 [max_positions, table_columns]; columns past rotary_dim / 2 turn by nothing."""
    cos, sin = turns(config.rotary_dim, config.rope_theta, config.max_positions, config.rope_scaling)
    more = ((0, 0), (0, table_columns(config) - config.rotary_dim // 2))
    return np.pad(cos, more, constant_values=1), np.pad(sin, more)
