from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.quality import Int8Model, Reference
from quantize.artifact import ArtifactStore
from quantize.formats import open_checkpoint
from quantize.importer import import_model
from tests.support.checkpoints import TinyGlm, write_checkpoint


def test_the_engine_is_near_the_reference_and_each_window_begins_anew(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    token_ids = np.random.default_rng(1).integers(0, 272, 31)
    with open_checkpoint(write_checkpoint(tmp_path / "checkpoint", TinyGlm(tied_head=True))) as checkpoint:
        reference = Reference(checkpoint).logits(token_ids)
        manifest = import_model(checkpoint, store, "tiny")
    model = Int8Model(manifest, store.blob_folder, context=64)
    logits = model.logits(token_ids).copy()
    assert np.sqrt(np.mean((logits - reference) ** 2) / np.mean(reference**2)) < 0.03
    assert np.array_equal(model.logits(token_ids), logits)
    answer = model.greedy(token_ids.tolist(), frozenset(), limit=5, chunk=10)
    assert answer[0] == logits[-1].argmax()
    assert len(answer) == 5
    assert model.greedy(token_ids.tolist(), frozenset(answer[2:3]), limit=5) == answer[: answer.index(answer[2]) + 1]
