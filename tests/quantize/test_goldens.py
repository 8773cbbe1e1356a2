"""Every architecture against transformers: tests/goldens/make.py made the checkpoints and the reference logits."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from protos.dtypes import KvDtype
from protos.manifest import Manifest
from quantize.artifact import ArtifactStore
from quantize.formats import open_checkpoint
from quantize.importer import import_model
from tests.quantize.stages import Floats, Pipeline
from tests.support.checkpoints import tokenizer_json, write_json

GOLDENS = sorted(path.parent for path in (Path(__file__).parents[1] / "goldens").glob("*/reference.npz"))
Import = Callable[[Path, Literal[8, 32]], tuple[Manifest, ArtifactStore]]


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    def get(golden: Path, bits: Literal[8, 32]) -> tuple[Manifest, ArtifactStore]:
        monkeypatch.setattr(os, "fsync", lambda _: None)
        folder = Path(shutil.copytree(golden, tmp_path / "checkpoint", dirs_exist_ok=True))
        write_json(folder / "tokenizer.json", tokenizer_json())
        store = ArtifactStore(tmp_path / "store")
        with open_checkpoint(folder) as checkpoint:
            return import_model(checkpoint, store, "golden", bits=bits), store

    return get


def reference(golden: Path) -> tuple[np.ndarray, Floats]:
    """(ids [sequences, tokens], logits [sequences, tokens, V])."""
    with np.load(golden / "reference.npz") as arrays:
        return arrays["ids"], arrays["logits"]


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


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.name)
def test_float32_is_the_reference(imported: Import, golden: Path) -> None:
    ids, expected = reference(golden)
    found = run(*imported(golden, 32), ids, 0)
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.name)
def test_int8_changes_no_clear_choice(imported: Import, golden: Path, record_property: Callable[[str, object], None]) -> None:
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
    print(golden.name, figures)  # noqa: T201 (a report: pytest -s)
    assert clear.mean() > 0.5  # or the next line says nothing
    assert agrees[clear].mean() >= 0.995
    assert 0 < kl < 0.01
    assert agrees.mean() > 0.9


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.name)
def test_an_int8_cache_is_calibrated(imported: Import, golden: Path) -> None:
    """Its scales come from the architecture's own run in numpy: were that wrong, keys or values would not fit."""
    ids, expected = reference(golden)
    found = run(*imported(golden, 32), ids[:1], 0, "int8")
    assert 0 < np.sqrt(np.mean((found - expected[:1]) ** 2) / np.mean(expected[:1] ** 2)) < 0.05


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
