from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protos.manifest import ModelConfig
from quantize.checkpoints.huggingface_config import parse_config
from quantize.layers.positions import rotary_tables, table_columns

_CONFIG = ModelConfig("GlmForCausalLM", 64, 1, 4, 2, 64, 96, 272, 1e-5, 1e4, 32, False, True, 50, (1,))
_ROPE = json.loads((Path(__file__).parents[2] / "goldens" / "rope.json").read_text())


@pytest.mark.parametrize("case", _ROPE["cases"])
def test_tables_are_those_of_transformers(case: str) -> None:
    """Of each kind of scaling, and where two keys say different things."""
    wanted = _ROPE["cases"][case]
    config = parse_config({**_ROPE["base"], **wanted["config"]})
    assert config.rotary_dim == 2 * len(wanted["frequencies"])
    cos, sin = rotary_tables(config)
    angles = np.outer(np.arange(config.max_positions), wanted["frequencies"])
    assert len(cos) >= 512
    for found, exact in ((cos, np.cos(angles)), (sin, np.sin(angles))):
        assert np.abs(found[:, : angles.shape[1]] - wanted["magnitude"] * exact).max() < 1e-4  # theirs are float32
        assert set(found[:, angles.shape[1] :].flat) <= {0.0, 1.0}


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
