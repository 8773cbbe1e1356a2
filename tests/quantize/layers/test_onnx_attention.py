"""Attention's rows do not depend on the run that they are computed in, however wide its keys are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from protos.dtypes import KvDtype
from quantize.artifact.costs import stage_cost
from quantize.artifact.graph import build_stage_graph
from quantize.parts import stage_parts
from tests.quantize.stages import Floats, Stage
from tests.support.checkpoints import TinyGlm
from tests.support.goldens import import_golden
from tests.support.ring import tiny_model

RUNS = ([80], [2] * 40, [30, 30, 20], [64, 16], [66, 14], [6, 74])
# Sums of so many products are made in pieces whose length depends on the number of keys, where it is small.
WIDE = 264


def hidden(stage: Stage, rows: Floats, runs: Sequence[int]) -> Floats:
    ends = np.cumsum(runs)
    found = [stage.step(rows[None, end - count : end], [int(end - count)])[0] for end, count in zip(ends, runs, strict=True)]
    return np.concatenate(found)


@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
@pytest.mark.parametrize(("latent_rank", "capacity"), [(WIDE, 90), (WIDE, 82), (None, 90)])
def test_any_runs_give_the_same_rows_over_a_latent(tmp_path: Path, latent_rank: int | None, capacity: int, kv_dtype: KvDtype) -> None:
    manifest, store = import_golden("glm-4.7-flash", tmp_path, latent_rank=latent_rank)
    rows = np.random.default_rng(0).standard_normal((80, manifest.config.hidden_size)).astype(np.float32)
    stage = Stage(manifest, store.blob_folder, stage_parts(manifest, 0, 2), level=4, capacity=capacity, kv_dtype=kv_dtype)
    whole = hidden(stage, rows, RUNS[0])
    for runs in RUNS[1:]:
        assert np.array_equal(hidden(stage, rows, runs), whole), runs


def test_any_runs_give_the_same_rows_in_wide_heads_of_other_families(tmp_path: Path) -> None:
    manifest, store = tiny_model(tmp_path, TinyGlm(layers=1, heads=2, kv_heads=1, head_dim=WIDE + 8))
    rows = np.random.default_rng(0).standard_normal((80, manifest.config.hidden_size)).astype(np.float32)
    stage = Stage(manifest, store.blob_folder, stage_parts(manifest, 0, 1), level=4, capacity=90)
    whole = hidden(stage, rows, RUNS[0])
    for runs in RUNS[1:]:
        assert np.array_equal(hidden(stage, rows, runs), whole), runs


def test_a_cache_that_is_too_small_for_more_keys_has_all_that_it_takes(tmp_path: Path) -> None:
    manifest, store = import_golden("glm-4.7-flash", tmp_path, latent_rank=WIDE)
    rows = np.random.default_rng(0).standard_normal((40, manifest.config.hidden_size)).astype(np.float32)
    stage = Stage(manifest, store.blob_folder, stage_parts(manifest, 0, 2), level=4, capacity=44)
    assert np.array_equal(hidden(stage, rows, [10, 30]), hidden(stage, rows, [40]))


@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
def test_decoded_rows_do_not_depend_on_their_company(tmp_path: Path, kv_dtype: KvDtype) -> None:
    manifest, store = import_golden("glm-4.7-flash", tmp_path, latent_rank=WIDE)
    rows = np.random.default_rng(0).standard_normal((6, 1, manifest.config.hidden_size)).astype(np.float32)
    parts = stage_parts(manifest, 0, 2)
    together = Stage(manifest, store.blob_folder, parts, level=4, batch=6, capacity=90, kv_dtype=kv_dtype)
    alone = Stage(manifest, store.blob_folder, parts, level=4, batch=2, capacity=90, kv_dtype=kv_dtype)
    lengths = [0, 3, 20, 40, 66, 80]
    found = together.step(rows, lengths)
    for place, length in enumerate(lengths):
        for cache in alone.caches.values():
            cache[...] = 0
        assert np.array_equal(alone.step(rows[[place, place]], [length, length])[0], found[place])


@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
def test_operators_are_the_graphs_nodes(tmp_path: Path, kv_dtype: KvDtype) -> None:
    manifest, _ = import_golden("glm-4.7-flash", tmp_path, latent_rank=WIDE)
    parts = stage_parts(manifest, 0, 1)
    graph = onnx.load_model_from_string(build_stage_graph(manifest, parts, kv_dtype=kv_dtype)).graph
    assert stage_cost(manifest, parts, kv_dtype).operators == len(graph.node)
