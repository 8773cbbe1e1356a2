"""GGUF files of models that see: llama.cpp's converter writes their text tower as glm4, with rotary positions in sections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from protos.errors import InvalidInput
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.gguf_checkpoint import open_gguf
from quantize.importing.importer import import_model
from tests.quantize.stages import Pipeline
from tests.support.checkpoints import TinyGlm
from tests.support.gguf_files import tensors, write_gguf
from tests.support.goldens import golden_folder, reference

# The golden checkpoint glm-4.6v, all of whose heads' elements turn.
SHAPE = TinyGlm(hidden_size=48, layers=2, heads=3, kv_heads=3, intermediate_size=56, vocab_size=160, rotary_fraction=1.0, max_positions=128)
SECTIONS: dict[str, object] = {"glm4.rope.dimension_sections": [2, 3, 3, 0]}


def _halves_apart(rows: np.ndarray) -> np.ndarray:
    """As the converter permutes the rows of queries and keys (conversion/glm.py, normal_to_neox)."""
    heads = rows.reshape(-1, 16, *rows.shape[1:])
    return np.concatenate([heads[:, ::2], heads[:, 1::2]], axis=1).reshape(rows.shape)


def _write(path: Path, metadata: dict[str, object]) -> Path:
    stored = load_file(golden_folder("glm-4.6v") / "model.safetensors")
    text = {name.replace("model.language_model.", "model."): array for name, array in stored.items() if "visual" not in name}
    turned = {name: _halves_apart(array) if ".q_proj." in name or ".k_proj." in name else array for name, array in text.items()}
    return write_gguf(path, SHAPE, architecture="glm4", pre="glm4", metadata=metadata, extra=tensors(turned, 2, "glm4"))


def test_a_text_tower_computes_what_transformers_does(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    with open_gguf(_write(tmp_path / "tower.gguf", SECTIONS)) as checkpoint:
        assert (checkpoint.config.architecture, checkpoint.config.rotary_halves) == ("Glm4ForCausalLM", True)
        manifest = import_model(checkpoint, store, "tower", bits=32)
    ids, expected = reference("glm-4.6v")
    found = Pipeline(manifest, store.blob_folder).step(ids[:1], [0])
    assert np.abs(found - expected[:1]).max() < 1e-3


def test_without_sections_pairs_are_neighbours(tmp_path: Path) -> None:
    with open_gguf(_write(tmp_path / "tower.gguf", {})) as checkpoint:
        assert not checkpoint.config.rotary_halves


def test_what_cannot_turn_so_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "tower.gguf", {**SECTIONS, "glm4.rope.dimension_count": 8})
    with pytest.raises(InvalidInput, match="3 heads of 16, 3 of them for keys, 8 rotated, cannot be"), open_gguf(path):
        pytest.fail("opened")
