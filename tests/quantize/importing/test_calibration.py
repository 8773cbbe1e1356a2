"""Scales of the int8 cache: they cover what keys and values reach, and one pass sees what the whole model computes."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from protos.manifest import Manifest
from quantize.importing.calibration import Calibration
from quantize.importing.calibration_text import TOKENS, calibration_ids
from tests.quantize.conftest import Imported
from tests.support import oracle
from tests.support.checkpoints import SPECIAL_TOKENS, TinyGlm, tokenizer_json

Get = Callable[..., Imported]
MODEL = TinyGlm(layers=3)


def calibrate(manifest: Manifest, weights: dict[str, np.ndarray], token_ids: list[int], slab: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(key scales, value scales) of each layer, matrices given in slabs of so many rows."""
    calibration = Calibration(manifest.config, token_ids)
    table = weights["embedding.weight"][:, : manifest.config.hidden_size]
    for start in range(0, len(table), slab):
        calibration.embed(start, table[start : start + slab])
    widths = {"o.weight": manifest.config.query_size, "down.weight": manifest.config.intermediate_size}
    scales = []
    for layer in range(manifest.config.layers):
        for name in ("input_norm", "post_norm", "qkv.bias"):
            calibration.keep(layer, name, weights[f"layers.{layer}.{name}"])
        for name in ("qkv.weight", "o.weight", "gate_up.weight", "down.weight"):
            matrix = weights[f"layers.{layer}.{name}"][:, : widths.get(name, manifest.config.hidden_size)]
            calibration.begin(layer, name)
            for start in range(0, len(matrix), slab):
                calibration.multiply(matrix[start : start + slab])
        scales.append((calibration.key_scales, calibration.value_scales))
    return scales


def test_scales_are_what_keys_and_values_reach(imported: Get) -> None:
    artifact = imported(MODEL)
    config, weights = artifact.manifest.config, oracle.load_weights(artifact.manifest, artifact.blob_folder)
    token_ids = list(np.random.default_rng(3).integers(0, config.vocab_size, 40))
    hidden = oracle.run(config, weights, token_ids).hidden
    for layer, (key_scales, value_scales) in enumerate(calibrate(artifact.manifest, weights, token_ids, 10_000)):
        rows = hidden[layer] / np.sqrt(np.mean(hidden[layer] ** 2, axis=1, keepdims=True) + config.norm_epsilon)
        normed = rows * weights[f"layers.{layer}.input_norm"]
        qkv = normed @ weights[f"layers.{layer}.qkv.weight"][:, : config.hidden_size].T + weights[f"layers.{layer}.qkv.bias"]
        keys, values = np.split(qkv[:, config.query_size :], 2, axis=1)
        assert np.allclose(value_scales, 1.25 * np.abs(values).max(axis=0) / 127, rtol=0.01)
        heads = keys.reshape(len(keys), config.kv_heads, config.head_dim)
        pairs = np.hypot(heads[:, :, 0 : config.rotary_dim : 2], heads[:, :, 1 : config.rotary_dim : 2]).max(axis=0)
        found = key_scales.reshape(config.kv_heads, config.head_dim)
        assert np.allclose(found[:, 0 : config.rotary_dim : 2], 1.25 * pairs / 127, rtol=0.01)
        assert np.array_equal(found[:, 0 : config.rotary_dim : 2], found[:, 1 : config.rotary_dim : 2])
        assert np.allclose(found[:, config.rotary_dim :], 1.25 * np.abs(heads[:, :, config.rotary_dim :]).max(axis=0) / 127, rtol=0.01)


def test_a_column_counts_by_what_it_is_multiplied_with(imported: Get) -> None:
    artifact = imported(MODEL)
    config, weights = artifact.manifest.config, oracle.load_weights(artifact.manifest, artifact.blob_folder)
    token_ids = list(np.random.default_rng(3).integers(0, config.vocab_size, 40))
    calibration = Calibration(config, token_ids)
    calibration.embed(0, weights["embedding.weight"][:, : config.hidden_size])
    gain = weights["layers.0.input_norm"].copy()
    gain[5], gain[7] = 0.0, 10.0
    for name, values in (("input_norm", gain), ("post_norm", gain), ("qkv.bias", weights["layers.0.qkv.bias"])):
        calibration.keep(0, name, values)
    importance = calibration.begin(0, "qkv.weight")
    rows = oracle.run(config, weights, token_ids).hidden[0]
    squares = np.square(rows / np.sqrt(np.mean(rows**2, axis=1, keepdims=True) + config.norm_epsilon) * gain).mean(axis=0)
    assert np.allclose(importance, 0.1 + 0.9 * squares / squares.mean(), rtol=0.01)
    assert importance.argmax() == 7
    assert importance[5] == importance.min() > 0


def test_an_import_stores_them_however_it_is_cut_into_slabs(imported: Get) -> None:
    artifact = imported(MODEL)
    weights = oracle.load_weights(artifact.manifest, artifact.blob_folder)
    tokenizer = artifact.blob_folder / next(file.blob.digest for file in artifact.manifest.text_files if file.name == "tokenizer.json")
    token_ids = calibration_ids(tokenizer.read_bytes(), artifact.manifest.config.vocab_size)
    for slab in (7, 10_000):
        for layer, (keys, values) in enumerate(calibrate(artifact.manifest, weights, token_ids, slab)):
            assert np.array_equal(keys, weights[f"layers.{layer}.k_scale"])
            assert np.array_equal(values, weights[f"layers.{layer}.v_scale"])


def test_a_channel_that_stays_quiet_has_a_scale(imported: Get) -> None:
    artifact = imported(MODEL)
    weights = oracle.load_weights(artifact.manifest, artifact.blob_folder)
    for layer in range(MODEL.layers):
        weights[f"layers.{layer}.qkv.weight"] = np.zeros_like(weights[f"layers.{layer}.qkv.weight"])
        weights[f"layers.{layer}.qkv.bias"] = np.zeros_like(weights[f"layers.{layer}.qkv.bias"])
    assert all((scales > 0).all() for pair in calibrate(artifact.manifest, weights, [1, 2, 3], 10_000) for scales in pair)


def test_the_text_is_cut_by_the_vocabulary_and_special_tokens_begin_its_stretches() -> None:
    token_ids = calibration_ids(json.dumps(tokenizer_json()).encode(), 272)
    assert len(token_ids) == TOKENS
    assert token_ids[:160:32] == [256 + index for index in range(5)]
    assert len(SPECIAL_TOKENS) == 6
    # Byte-level tokens without merges: the text itself.
    assert bytes(token_ids[1:32]).decode() == "he river was high that spring, "[:31]


def test_longer_tokens_win() -> None:
    vocab = {"T": 0, "The": 1, "Ġriver": 2, "Ġ": 3, "Ġr": 4}
    assert calibration_ids(json.dumps({"model": {"vocab": vocab}}).encode(), 5)[:2] == [1, 2]


@pytest.mark.parametrize("tokenizer", [{}, {"model": {"vocab": [["a", 0.0]]}}, {"model": {"vocab": {"T": 500}}}], ids=str)
def test_another_kind_of_vocabulary_is_sampled(tokenizer: dict[str, object]) -> None:
    token_ids = calibration_ids(json.dumps(tokenizer).encode(), 300)
    assert len(token_ids) == TOKENS
    assert (min(token_ids), max(token_ids)) == (0, 299)
    assert len(set(token_ids)) == TOKENS


def test_sentencepieces_words_have_its_space() -> None:
    vocab = {"The": 1, "▁": 0, "▁river": 2, "Ġriver": 3, "云": 4}
    found = calibration_ids(json.dumps({"model": {"vocab": vocab}}).encode(), 5)
    assert found[:2] == [1, 2]
    assert 4 in found
