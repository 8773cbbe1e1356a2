"""Every architecture against transformers: tests/goldens/make.py made the checkpoints and the reference logits."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from protos.dtypes import KvDtype
from protos.manifest import Manifest
from quantize.architectures.registry import architecture_of
from quantize.artifact.store import ArtifactStore
from quantize.layers.reference import BlockRun
from tests.quantize.stages import Floats, Pipeline
from tests.support import oracle
from tests.support.goldens import NAMES, import_golden, reference

Import = Callable[[str, Literal[8, 32]], tuple[Manifest, ArtifactStore]]


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return lambda name, bits: import_golden(name, tmp_path, bits)


def run(manifest: Manifest, store: ArtifactStore, ids: np.ndarray, level: int, kv_dtype: KvDtype = "float32") -> Floats:
    """Each sequence prefilled but for its last tokens, which are decoded one by one."""
    found = []
    for sequence in ids:
        pipeline = Pipeline(manifest, store.blob_folder, cuts=(1,), level=level, capacity=128, kv_dtype=kv_dtype)
        prompt = len(sequence) - 6
        logits = [pipeline.step(sequence[None, :prompt], [0])[0]]
        logits += [pipeline.step(sequence[None, at : at + 1], [at])[0] for at in range(prompt, len(sequence))]
        found.append(np.concatenate(logits))
    return np.stack(found)


@pytest.mark.parametrize("golden", NAMES)
def test_float32_is_the_reference(imported: Import, golden: str) -> None:
    ids, expected = reference(golden)
    found = run(*imported(golden, 32), ids, 0)
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("golden", NAMES)
def test_int8_changes_no_clear_choice(imported: Import, golden: str, record_property: Callable[[str, object], None]) -> None:
    ids, expected = reference(golden)
    found = run(*imported(golden, 8), ids, 4)
    rms = float(np.sqrt(np.mean((found - expected) ** 2)))
    best = np.sort(expected, axis=-1)
    clear = best[..., -1] - best[..., -2] > 4 * rms
    agrees = found.argmax(axis=-1) == expected.argmax(axis=-1)
    p, q = _log_softmax(expected), _log_softmax(found)
    kl = float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1)))
    figures = {"rms": rms, "kl": kl, "top1": float(agrees.mean()), "clear": float(clear.mean())}
    for name, value in figures.items():
        record_property(name, round(value, 5))
    print(golden, figures)  # noqa: T201 (a report: pytest -s)
    assert clear.mean() > 0.4  # or the next line says nothing
    assert agrees[clear].mean() >= 0.995
    assert 0 < kl < 0.01
    assert agrees.mean() > 0.9


@pytest.mark.parametrize("golden", NAMES)
def test_what_calibrates_the_int8_cache_is_the_reference(imported: Import, golden: str) -> None:
    """Each architecture's layer in numpy, and a graph whose cache has the scales that it found."""
    ids, expected = reference(golden)
    manifest, store = imported(golden, 32)
    weights = oracle.load_weights(manifest, store.blob_folder)
    config, architecture = manifest.config, architecture_of(manifest.config)
    hidden = weights["embedding.weight"][ids[0]].astype(np.float64)
    for layer in range(config.layers):
        inside = {name.removeprefix(f"layers.{layer}."): values for name, values in weights.items() if name.startswith(f"layers.{layer}.")}
        layer_run = BlockRun(hidden, inside)
        steps, product = layer_run.steps(architecture.layer(config, layer)), None
        with suppress(StopIteration):
            while True:
                name, states = next(steps) if product is None else steps.send(product)
                product = states @ inside[name].T + inside.get(f"{name.removesuffix('weight')}bias", 0)
        hidden = layer_run.hidden
    head = {name.removeprefix("head."): values for name, values in weights.items() if name.startswith("head.")}
    _, normed = next(BlockRun(hidden, head).steps(architecture.head(config)))
    assert np.abs(normed @ weights["head.weight"].T - expected[0]).max() < 1e-3
    found = run(manifest, store, ids[:1], 0, "int8")
    assert 0 < np.sqrt(np.mean((found - expected[:1]) ** 2) / np.mean(expected[:1] ** 2)) < 0.1


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
