from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from protos.errors import InvalidInput
from quantize.blocks import Floats
from quantize.checkpoints import checkpoint as checkpoint_module
from quantize.checkpoints.checkpoint import Checkpoint, tensor_shapes
from quantize.checkpoints.formats import open_checkpoint
from quantize.importing.folding import RotatedCheckpoint
from tests.support import oracle
from tests.support.checkpoints import TinyGlm, write_checkpoint

MATRIX = [
    TinyGlm(rotary_fraction=fraction, qkv_bias=bias, tied_head=tied, kv_heads=kv_heads)
    for fraction, bias, tied, kv_heads in itertools.product((0.5, 1.0), (False, True), (False, True), (1, 2, 4))
]
# A power of two; an odd factor in the heads too.
ODD = [TinyGlm(hidden_size=128, head_dim=32), TinyGlm(head_dim=48, heads=2, kv_heads=1)]


def _weights(checkpoint: Checkpoint) -> dict[str, Floats]:
    weights = {name: checkpoint.read(name, 0, shape[0]) for name, shape in tensor_shapes(checkpoint.config).items()}
    return {"head.weight": weights["embedding.weight"], **weights}


def _with_strong_gains(weights: Mapping[str, Floats]) -> dict[str, Floats]:
    """Real models' gains are far from 1."""
    random = np.random.default_rng(7)
    return {
        name: (values * random.uniform(0.2, 3.0, values.shape)).astype(np.float32) if name.endswith("norm") else values
        for name, values in weights.items()
    }


class _InMemory:
    def __init__(self, checkpoint: Checkpoint, weights: Mapping[str, Floats]) -> None:
        self.config, self.provenance, self.text_files = checkpoint.config, checkpoint.provenance, checkpoint.text_files
        self.sampling = checkpoint.sampling
        self.weights = weights
        self.asked: list[tuple[str, int, int]] = []

    def read(self, name: str, start: int, stop: int) -> Floats:
        assert name in tensor_shapes(self.config)
        self.asked.append((name, start, stop))
        values = self.weights[name][start:stop]
        values.flags.writeable = False  # what a checkpoint gives is its own
        return values


def _in_memory(folder: Path, model: TinyGlm) -> _InMemory:
    with open_checkpoint(write_checkpoint(folder, model)) as checkpoint:
        return _InMemory(checkpoint, _with_strong_gains(_weights(checkpoint)))


@pytest.mark.parametrize("model", [*MATRIX, *ODD], ids=str)
def test_the_function_stays_the_same(tmp_path: Path, model: TinyGlm) -> None:
    checkpoint = _in_memory(tmp_path / "checkpoint", model)
    token_ids = np.random.default_rng(1).integers(0, 272, 24).tolist()
    expected = oracle.run(checkpoint.config, checkpoint.weights, token_ids)
    turned = RotatedCheckpoint(checkpoint)
    weights = _weights(turned)
    found = oracle.run(turned.config, weights, token_ids)
    scale = np.abs(expected.logits).max()
    assert np.abs(found.logits - expected.logits).max() < 1e-4 * max(1, scale)
    for before, after in zip(expected.hidden, found.hidden, strict=True):
        assert np.abs(before - after).max() > 0.1  # in other coordinates
        assert np.allclose(np.linalg.norm(before, axis=1), np.linalg.norm(after, axis=1), rtol=1e-4)


def test_shapes_stay_and_norms_become_one(tmp_path: Path) -> None:
    for tied in (False, True):
        checkpoint = _in_memory(tmp_path / f"{tied}", TinyGlm(tied_head=tied))
        turned = RotatedCheckpoint(checkpoint)
        assert not turned.config.tied_head
        for name, shape in tensor_shapes(turned.config).items():
            values = turned.read(name, 0, shape[0])
            assert (values.shape, values.dtype) == (shape, np.float32)
            assert values.flags.c_contiguous
            assert (values == 1).all() == name.endswith("norm")


def test_queries_and_keys_keep_their_biases_and_values_turn_by_heads(tmp_path: Path) -> None:
    checkpoint = _in_memory(tmp_path / "checkpoint", TinyGlm())
    before, after = checkpoint.weights["layers.0.qkv.bias"], RotatedCheckpoint(checkpoint).read("layers.0.qkv.bias", 0, 128)
    assert np.array_equal(after[:96], before[:96])
    heads_before, heads_after = before[96:].reshape(2, 16), after[96:].reshape(2, 16)
    assert not np.allclose(heads_before, heads_after)
    assert np.allclose(np.linalg.norm(heads_before, axis=1), np.linalg.norm(heads_after, axis=1))
    assert np.isclose(heads_before[0] @ heads_before[1], heads_after[0] @ heads_after[1])


@pytest.mark.parametrize("rows", [1, 7, 16, 23, 100])
def test_rows_in_slabs_are_the_rows_of_the_whole(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = _in_memory(tmp_path / "checkpoint", TinyGlm(layers=1))
    shapes = tensor_shapes(RotatedCheckpoint(checkpoint).config)
    whole = {name: RotatedCheckpoint(checkpoint).read(name, 0, shape[0]) for name, shape in shapes.items()}
    monkeypatch.setattr(checkpoint_module, "SLAB_ELEMENTS", 1000)
    turned = RotatedCheckpoint(checkpoint)
    for name, shape in shapes.items():
        checkpoint.asked.clear()
        slabs = [turned.read(name, start, min(start + rows, shape[0])) for start in range(0, shape[0], rows)]
        assert np.array_equal(np.concatenate(slabs), whole[name]), name
        asked = [(stop - start) for source, start, stop in checkpoint.asked if not source.endswith("norm")]
        if name.endswith(("o.weight", "down.weight")):
            assert sum(asked) == shape[0]  # once
        else:
            assert max(asked, default=0) <= rows + 2 * 15  # value heads are made whole


def test_a_slab_in_the_middle_of_the_value_heads(tmp_path: Path) -> None:
    checkpoint = _in_memory(tmp_path / "checkpoint", TinyGlm())
    turned = RotatedCheckpoint(checkpoint)
    whole = turned.read("layers.1.qkv.weight", 0, 128)
    for start, stop in itertools.combinations((0, 64, 95, 96, 97, 111, 112, 113, 128), 2):
        assert np.array_equal(turned.read("layers.1.qkv.weight", start, stop), whole[start:stop])


@pytest.mark.parametrize("norm", ["layers.0.input_norm", "layers.2.post_norm", "head.norm"])
def test_a_gain_that_is_not_finite_is_named(tmp_path: Path, norm: str) -> None:
    checkpoint = _in_memory(tmp_path / "checkpoint", TinyGlm())
    gain = checkpoint.weights[norm].copy()
    gain[3] = np.inf
    turned = RotatedCheckpoint(_InMemory(checkpoint, {**checkpoint.weights, norm: gain}))
    reader = {"head.norm": "head.weight"}.get(norm, norm.replace("input_norm", "qkv.weight").replace("post_norm", "gate_up.weight"))
    for name in (norm, reader):
        with pytest.raises(InvalidInput, match=norm):
            turned.read(name, 0, 8)


@pytest.mark.parametrize("name", ["embedding.weight", "layers.1.qkv.weight", "layers.1.o.weight", "layers.1.down.weight", "head.weight"])
def test_a_weight_that_is_not_finite_stays_so(tmp_path: Path, name: str) -> None:
    checkpoint = _in_memory(tmp_path / "checkpoint", TinyGlm())
    weight = checkpoint.weights[name].copy()
    weight[5, 3:5] = np.inf  # their difference is no number, and no warning
    turned = RotatedCheckpoint(_InMemory(checkpoint, {**checkpoint.weights, name: weight}))
    assert not np.isfinite(turned.read(name, 0, len(weight))).all()


def test_another_seed_is_another_model(tmp_path: Path) -> None:
    checkpoint = _in_memory(tmp_path / "checkpoint", TinyGlm())
    one, other = (RotatedCheckpoint(checkpoint, seed).read("embedding.weight", 0, 8) for seed in (1, 2))
    assert not np.allclose(one, other)
