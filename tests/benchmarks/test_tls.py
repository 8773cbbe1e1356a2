"""A short run of what TLS costs, over a tiny model: that both ways work and answer the same, not how fast."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figures import rows
from benchmarks.tls import DECODE, PLAIN, PUSH, TARGETS, TLS, Settings, measure
from tests.support.checkpoints import TinyGlm
from tests.support.ring import tiny_model


@pytest.mark.long
def test_both_ways_are_measured_in_turn(tmp_path: Path) -> None:
    tiny_model(tmp_path, TinyGlm(layers=2, max_positions=512))
    samples = measure(tmp_path / "run", tmp_path / "artifacts", "tiny", Settings(2, 48, 1 << 20, 1))
    assert samples.keys() == {f"{what}, {mode}" for what in (DECODE, PUSH) for mode in (TLS, PLAIN)}
    assert all(len(values) == 2 and min(values) > 0 for values in samples.values())
    assert [row.name for row in rows(TARGETS, samples)] == [target.name for target in TARGETS]
