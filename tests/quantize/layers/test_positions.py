from __future__ import annotations

from dataclasses import replace

import numpy as np

from protos.manifest import ModelConfig
from quantize.layers.positions import rotary_tables, table_columns

_CONFIG = ModelConfig("GlmForCausalLM", 64, 1, 4, 2, 64, 96, 272, 1e-5, 1e4, 32, False, True, 50, (1,))


def test_angles() -> None:
    cos, sin = rotary_tables(_CONFIG)
    assert cos.shape == sin.shape == (50, 16)
    assert (cos.dtype, sin.dtype) == (np.float32, np.float32)
    assert (cos[0] == 1).all()
    assert (sin[0] == 0).all()
    assert np.isclose(sin[3, 0], np.sin(3.0))
    assert np.isclose(cos[49, 15], np.cos(49 * 10_000 ** (-30 / 32)))


def test_columns_are_padded_with_no_turn() -> None:
    config = replace(_CONFIG, rotary_dim=20)
    cos, sin = rotary_tables(config)
    assert cos.shape == (50, table_columns(config)) == (50, 16)
    assert (cos[:, 10:] == 1).all()
    assert (sin[:, 10:] == 0).all()
    assert (sin[1:, :10] != 0).all()
