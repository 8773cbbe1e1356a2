from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from protos.errors import InvalidInput
from protos.manifest import Quantization
from quantize.artifact.graph import build_stage_graph
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.checkpoint import tensor_shapes
from quantize.checkpoints.formats import open_checkpoint
from quantize.checkpoints.huggingface import open_huggingface
from quantize.importing.calibration_text import calibration_ids
from quantize.importing.importer import import_model
from quantize.parts import HEAD, stage_parts
from tests.quantize.conftest import Imported
from tests.quantize.stages import Floats, Pipeline
from tests.support import oracle
from tests.support.checkpoints import TinyGlm, tokenizer_json, write_checkpoint

Get = Callable[..., Imported]

PROMPT, STEPS = 20, 6
MATRIX = [
    TinyGlm(rotary_fraction=fraction, qkv_bias=bias, tied_head=tied, kv_heads=kv_heads)
    for fraction, bias, tied, kv_heads in itertools.product((0.5, 1.0), (False, True), (False, True), (1, 2, 4))
]
# Of these any two properties meet in each way.
PAIRS = {
    (0.5, False, False, 1),
    (1.0, True, True, 1),
    (0.5, True, False, 2),
    (1.0, False, True, 2),
    (0.5, False, True, 4),
    (1.0, True, False, 4),
}
# hidden a multiple of every block; and rotary tables that must be padded (rotary_dim 24 of 48).
ODD = [TinyGlm(hidden_size=128, intermediate_size=256, head_dim=32), TinyGlm(head_dim=48, heads=2, kv_heads=1)]


def _often(model: TinyGlm) -> bool:
    return model in ODD or (model.rotary_fraction, model.qkv_bias, model.tied_head, model.kv_heads) in PAIRS


def _token_ids(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 272, count)


def _prefill_then_decode(pipeline: Pipeline, token_ids: np.ndarray, prompt: int = PROMPT) -> Floats:
    logits = [pipeline.step(token_ids[None, :prompt], [0])[0]]
    logits += [pipeline.step(token_ids[None, at : at + 1], [at])[0] for at in range(prompt, len(token_ids))]
    return np.concatenate(logits)


@pytest.mark.parametrize("rotate", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.parametrize("block_size", [32, 128])
@pytest.mark.parametrize(
    "model", [pytest.param(model, marks=() if _often(model) else pytest.mark.long) for model in (*MATRIX, *ODD)], ids=str
)
def test_agrees_with_the_oracle(imported: Get, model: TinyGlm, block_size: int, rotate: bool) -> None:
    """Prefill and single steps over the cache, against the whole sequence at once; the same dequantized weights."""
    artifact = imported(model, block_size, rotate)
    token_ids = _token_ids(PROMPT + STEPS)
    expected = oracle.run(artifact.manifest.config, oracle.load_weights(artifact.manifest, artifact.blob_folder), token_ids.tolist()).logits
    exact = _prefill_then_decode(Pipeline(artifact.manifest, artifact.blob_folder, level=0), token_ids)
    assert np.abs(exact - expected).max() < 1e-3
    fast = _prefill_then_decode(Pipeline(artifact.manifest, artifact.blob_folder, level=4), token_ids)
    assert 0 < np.sqrt(np.mean((fast - expected) ** 2) / np.mean(expected**2)) < 0.02


@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("model", [TinyGlm(), TinyGlm(tied_head=True, qkv_bias=False), *ODD], ids=str)
def test_weights_in_float32_are_the_checkpoint_itself(imported: Get, tmp_path: Path, model: TinyGlm, rotate: bool) -> None:
    artifact = imported(model, rotate=rotate, bits=32)
    token_ids = _token_ids(PROMPT + STEPS)
    with open_checkpoint(write_checkpoint(tmp_path / "checkpoint", model)) as checkpoint:
        weights = {name: checkpoint.read(name, 0, shape[0]) for name, shape in tensor_shapes(checkpoint.config).items()}
        weights.setdefault("head.weight", weights["embedding.weight"])
        expected = oracle.run(checkpoint.config, weights, token_ids.tolist()).logits
    found = _prefill_then_decode(Pipeline(artifact.manifest, artifact.blob_folder), token_ids)
    assert np.abs(found - expected).max() < 1e-4
    assert artifact.manifest.quantization == Quantization(bits=32, block_size=0, symmetric=True, rotated=rotate, outer_bits=32)


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, False)])
@pytest.mark.parametrize("block_size", [32, 128])
def test_other_schemes_agree_with_the_oracle(tmp_path: Path, bits: Literal[4, 8], symmetric: bool, block_size: int) -> None:
    """Zero points, values that share a byte, embedding and head of 8 bits beside them, widths that are no multiple of a block."""
    store = ArtifactStore(tmp_path / "store")
    with open_huggingface(write_checkpoint(tmp_path / "checkpoint", TinyGlm())) as checkpoint:
        manifest = import_model(checkpoint, store, "tiny", bits=bits, symmetric=symmetric, block_size=block_size)
    assert (manifest.quantization.bits, manifest.quantization.symmetric, manifest.quantization.outer_bits) == (bits, symmetric, 8)
    token_ids = _token_ids(PROMPT + STEPS)
    expected = oracle.run(manifest.config, oracle.load_weights(manifest, store.blob_folder), token_ids.tolist()).logits
    exact = _prefill_then_decode(Pipeline(manifest, store.blob_folder, level=0), token_ids)
    assert np.abs(exact - expected).max() < 1e-3
    fast = _prefill_then_decode(Pipeline(manifest, store.blob_folder, level=4), token_ids)
    assert 0 < np.sqrt(np.mean((fast - expected) ** 2) / np.mean(expected**2)) < 0.02


@pytest.mark.parametrize("model", [MATRIX[0], MATRIX[-1], *ODD], ids=str)
def test_an_int8_cache_is_near_the_oracle(imported: Get, model: TinyGlm) -> None:
    artifact = imported(model)
    token_ids = np.array(calibration_ids(json.dumps(tokenizer_json()).encode(), model.vocab_size)[: PROMPT + STEPS])
    expected = oracle.run(artifact.manifest.config, oracle.load_weights(artifact.manifest, artifact.blob_folder), token_ids.tolist()).logits
    pipeline = Pipeline(artifact.manifest, artifact.blob_folder, level=0, kv_dtype="int8")
    found = _prefill_then_decode(pipeline, token_ids)
    # With fp32 activations the cache is all that is rounded.
    assert 0 < np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < 0.03
    # What was calibrated on lies within the range with its margin of a quarter, and most of the range is used.
    largest = [np.abs(cache.astype(np.int32)).max() for cache in pipeline.stages[0].caches.values()]
    assert max(largest) <= 104
    assert min(largest) > 60


def test_an_artifact_without_scales_takes_no_int8_cache(imported: Get) -> None:
    manifest = imported(TinyGlm()).manifest
    parts = tuple(
        replace(part, variants=(replace(variant, tensors=tuple(t for t in variant.tensors if t.name not in ("k_scale", "v_scale"))),))
        for part in manifest.parts
        for variant in part.variants
    )
    old = replace(manifest, parts=parts)
    build_stage_graph(old, ("positions", "layers.0"))
    with pytest.raises(InvalidInput, match="no scales for an int8 KV cache") as refused:
        build_stage_graph(old, ("positions", "layers.0"), kv_dtype="int8")
    assert "import" in refused.value.advice


@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("block_size", [32, pytest.param(64, marks=pytest.mark.long), 128])
def test_a_cut_at_any_layer_changes_no_bit(imported: Get, block_size: int, level: int) -> None:
    """Two slots: an even number of rows in every run."""
    artifact = imported(TinyGlm(layers=4), block_size)
    token_ids = _token_ids(2 * 12).reshape(2, 12)

    def run(cuts: tuple[int, ...]) -> list[Floats]:
        pipeline = Pipeline(artifact.manifest, artifact.blob_folder, cuts=cuts, level=level, batch=2)
        answers = [pipeline.step(token_ids[:, :8], [0, 0])]
        return answers + [pipeline.step(token_ids[:, at : at + 1], [at, at]) for at in range(8, 12)]

    whole = run(())
    for cuts in [(0,), (1,), (2,), (3,), (1, 2, 3), (0, 1, 2, 3)]:
        assert all(np.array_equal(a, b) for a, b in zip(whole, run(cuts), strict=True)), cuts


def test_hidden_out_is_the_residual_stream(imported: Get) -> None:
    artifact = imported(TinyGlm())
    token_ids = _token_ids(PROMPT)
    expected = oracle.run(artifact.manifest.config, oracle.load_weights(artifact.manifest, artifact.blob_folder), token_ids.tolist()).hidden
    pipeline = Pipeline(artifact.manifest, artifact.blob_folder, cuts=(0, 1, 2), level=0)
    rows: np.ndarray = token_ids[None]
    for stage, hidden in zip(pipeline.stages, expected, strict=True):
        rows = stage.step(rows, [0])
        assert np.abs(rows[0] - hidden).max() < 1e-4


def test_a_prefill_in_even_chunks_is_one_prefill(imported: Get) -> None:
    artifact = imported(TinyGlm(), 32)
    token_ids = _token_ids(PROMPT)
    whole = Pipeline(artifact.manifest, artifact.blob_folder, level=4).step(token_ids[None], [0])[0]
    chunked = Pipeline(artifact.manifest, artifact.blob_folder, level=4)
    edges = [0, 6, 8, 20]
    pieces = [chunked.step(token_ids[None, low:high], [low])[0] for low, high in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_the_company_of_a_sequence_changes_no_bit_of_it(imported: Get, block_size: int) -> None:
    """Beside one dummy, and in another slot beside three others: even rows in every run."""
    artifact = imported(TinyGlm(), block_size)
    token_ids = _token_ids(4 * 12).reshape(4, 12)

    def run(batch: np.ndarray, slot: int) -> list[Floats]:
        pipeline = Pipeline(artifact.manifest, artifact.blob_folder, level=4, batch=len(batch))
        steps = [pipeline.step(batch[:, :6], [0] * len(batch))]
        steps += [pipeline.step(batch[:, at : at + 1], [at] * len(batch)) for at in range(6, 12)]
        return [logits[slot] for logits in steps]

    alone = run(np.stack([token_ids[2], np.zeros(12, np.int64)]), 0)
    assert all(np.array_equal(a, b) for a, b in zip(alone, run(token_ids, 2), strict=True))


def test_slots_of_different_lengths_do_not_touch_each_other(imported: Get) -> None:
    """One prefills longer than the other (the shorter's padding rows are overwritten), then both step."""
    artifact = imported(TinyGlm(), 32)
    long, short = _token_ids(14), _token_ids(9, seed=2)
    weights = oracle.load_weights(artifact.manifest, artifact.blob_folder)
    pipeline = Pipeline(artifact.manifest, artifact.blob_folder, level=0, batch=2)
    padded = np.zeros((2, 10), np.int64)
    padded[0], padded[1, :5] = long[:10], short[:5]
    pipeline.step(padded, [0, 0])
    for step in range(4):
        logits = pipeline.step(np.array([[long[10 + step]], [short[5 + step]]]), [10 + step, 5 + step])
    for slot, token_ids in enumerate((long, short)):
        expected = oracle.run(artifact.manifest.config, weights, token_ids.tolist()).logits[-1]
        assert np.abs(logits[slot, 0] - expected).max() < 1e-3


def test_the_cache_is_written_in_place_and_no_further(imported: Get) -> None:
    artifact = imported(TinyGlm())
    pipeline = Pipeline(artifact.manifest, artifact.blob_folder, level=4)
    pipeline.step(_token_ids(6)[None], [0])
    for cache in pipeline.stages[0].caches.values():
        assert (cache[:, :, :6] != 0).any(axis=-1).all()
        assert (cache[:, :, 6:] == 0).all()


def test_a_graph_holds_no_weights_and_says_where_they_are(imported: Get) -> None:
    artifact = imported(TinyGlm(layers=4))
    parts = stage_parts(artifact.manifest, 1, 3)
    data = build_stage_graph(artifact.manifest, parts)
    assert len(data) < 20_000
    graph = onnx.load_from_string(data).graph
    places = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    assert {"positions.cos", "layers.1.qkv.weight", "layers.2.down.scales"} <= set(places)
    assert {place["location"] for place in places.values()} == {artifact.manifest.part(part).variants[0].blobs[0].digest for part in parts}
    assert [value.name for value in graph.input] == [
        *("hidden_in", "seqlens_k", "total_sequence_length"),
        *("past_key.1", "past_value.1", "past_key.2", "past_value.2"),
    ]
    assert [value.name for value in graph.output] == [
        *("present_key.1", "present_value.1", "present_key.2", "present_value.2"),
        "hidden_out",
    ]


def test_the_same_stage_is_the_same_bytes(imported: Get) -> None:
    manifest = imported(TinyGlm()).manifest
    parts = stage_parts(manifest, 0, 3)
    assert build_stage_graph(manifest, parts) == build_stage_graph(manifest, parts)
    assert build_stage_graph(manifest, parts) != build_stage_graph(manifest, parts, accuracy_level=0)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        ["layers.0"],
        ["positions"],
        ["positions", "layers.0", "layers.2"],
        ["positions", "layers.0", "layers.0"],
        ["positions", "layers.0", "head"],
        ["embedding", "adapter"],
        ["positions", "layers.00"],
        ["positions", "layers.3"],
    ],
    ids=lambda parts: ",".join(parts) or "none",
)
def test_what_is_no_stage_is_refused(imported: Get, parts: list[str]) -> None:
    with pytest.raises(InvalidInput):
        build_stage_graph(imported(TinyGlm()).manifest, parts)


def test_the_head_alone(imported: Get) -> None:
    for tied in (False, True):
        manifest = imported(TinyGlm(tied_head=tied), rotate=not tied).manifest
        graph = onnx.load_from_string(build_stage_graph(manifest, [HEAD])).graph
        assert [value.name for value in (*graph.input, *graph.output)] == ["hidden_in", "logits"]
