"""Rotary position tables."""

from __future__ import annotations

import numpy as np

from protos.manifest import ModelConfig
from quantize.blocks import Floats, padded

# GroupQueryAttention takes tables of a multiple of 8 columns.
_COLUMNS_STEP = 8


def table_columns(config: ModelConfig) -> int:
    """rotary_dim / 2, rounded up to what the operator takes (never beyond head_dim / 2: head_dim is a multiple of 16)."""
    return padded(config.rotary_dim // 2, _COLUMNS_STEP)


def rotary_tables(config: ModelConfig) -> tuple[Floats, Floats]:
    """(cos, sin), each float32 [max_positions, table_columns]: angle of position p and pair i is p * theta^(-2i / rotary_dim).

    Columns past rotary_dim / 2 turn by nothing. Computed in float64, rounded once. Source: RoFormer (arXiv:2104.09864), eq. 15.
    """
    pairs = np.arange(0, config.rotary_dim, 2, dtype=np.float64)
    angles = np.outer(np.arange(config.max_positions, dtype=np.float64), config.rope_theta ** (-pairs / config.rotary_dim))
    angles = np.pad(angles, ((0, 0), (0, table_columns(config) - config.rotary_dim // 2)))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
