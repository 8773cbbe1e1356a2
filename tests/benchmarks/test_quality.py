from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import measure
from fleet.cli.versions import EngineVersion
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.importing.importer import import_model
from quantize.quality.scores import quality
from quantize.quality.walk import Walk
from quantize.quality.windows import Window
from tests.support.checkpoints import TinyGlm, write_checkpoint


def test_versions_and_others_are_judged_by_the_first(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    parts = [Window(ids) for ids in np.random.default_rng(1).integers(0, 272, (3, 31))]
    with open_checkpoint(write_checkpoint(tmp_path / "checkpoint", TinyGlm(tied_head=True))) as checkpoint:
        manifests = [
            import_model(checkpoint, store, "fp32", bits=32),
            import_model(checkpoint, store, "int8"),
            import_model(checkpoint, store, "int4", bits=4, symmetric=False),
        ]
    versions = [EngineVersion(manifest, store.blob_folder, 32) for manifest in manifests]

    def truth(token_ids: np.ndarray) -> np.ndarray:
        return next(Walk(versions[:1], [Window(token_ids)]).logits())[0]

    told: list[int] = []
    scores = measure(versions, [truth], parts, lambda done, total: told.append(total - done))
    int8, int4, same = (quality(own) for own in scores)
    assert 0.001 < int8.logits_relative_rms.value < 0.03 < int4.logits_relative_rms.value < 0.3
    assert 0 < int8.kl_divergence.value < int4.kl_divergence.value
    assert same.kl_divergence.value == pytest.approx(0, abs=1e-6)
    assert same.top1_agreement.value == 1
    assert told[-1] == 0
