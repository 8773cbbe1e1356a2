from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import random_checkpoint
from benchmarks.full_shapes import SMALL
from benchmarks.random_checkpoint import MODELS, write
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.importing.importer import import_model

TINY = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 600}
GLM = {"num_hidden_layers": 2, "num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 16, "eos_token_id": [598, 599]}
BLANKS = {"<|endoftext|>": 590, "<|startofpiece|>": 591, "<|endofpiece|>": 592, "[MASK]": 593, "[gMASK]": 594}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_imported(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_checkpoint, "_FILE_BYTES", 100_000)
    model = MODELS[name]
    small = replace(
        model, config={**model.config, **TINY, **({"num_layers": 2} if model.special else GLM)}, special=BLANKS if model.special else {}
    )
    weights = write(tmp_path / "checkpoint", small)
    assert len(list((tmp_path / "checkpoint").glob("*.safetensors"))) > 1
    with open_checkpoint(tmp_path / "checkpoint") as checkpoint:
        manifest = import_model(checkpoint, ArtifactStore(tmp_path / "artifacts"), name)
    assert (manifest.config.layers, manifest.config.vocab_size) == (2, 600)
    assert weights > 600 * 64


def test_every_model_has_devices_too_small_for_it() -> None:
    assert SMALL.keys() == MODELS.keys()
