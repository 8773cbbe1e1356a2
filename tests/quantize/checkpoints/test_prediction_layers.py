from __future__ import annotations

import pytest

from quantize.checkpoints.prediction_layers import left_out

NAMES = ["token_embd.weight", *(f"blk.{layer}.attn_norm.weight" for layer in range(8)), "blk.7.nextn.enorm.weight", "blk.x.weight"]


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (8, ""),
        (7, "left out: 1 layer that would predict further tokens (blk.7)"),
        (6, "left out: 2 layers that would predict further tokens (blk.6, blk.7)"),
        (1, "left out: 7 layers that would predict further tokens (blk.1, blk.2, blk.3, blk.4, …)"),
    ],
)
def test_what_is_past_the_last(layers: int, says: str) -> None:
    assert left_out(NAMES, "blk.{}.", layers) == says
