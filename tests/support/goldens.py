"""Golden checkpoints (tests/goldens/make.py) and what transformers computes with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.importing.importer import import_model
from tests.support.checkpoints import tokenizer_json, write_json
from tests.support.kept import kept

NAMES = sorted(path.parent.name for path in (Path(__file__).parents[1] / "goldens").glob("*/reference.npz"))


def golden_folder(name: str) -> Path:
    return Path(__file__).parents[1] / "goldens" / name


def import_golden(
    name: str, folder: Path, bits: Literal[8, 32] = 8, block_size: int | None = None, *, latent_rank: int | None = None
) -> tuple[Manifest, ArtifactStore]:
    """Into a store in `folder`, with a tokenizer that the checkpoints do without; with another `latent_rank` it is another model."""

    def make(empty: Path) -> None:
        checkpoint_folder = Path(shutil.copytree(golden_folder(name), empty / "checkpoint"))
        if latent_rank:
            _give_latent(checkpoint_folder, latent_rank)
        write_json(checkpoint_folder / "tokenizer.json", tokenizer_json())
        with open_checkpoint(checkpoint_folder) as checkpoint:
            import_model(checkpoint, ArtifactStore(empty / "store"), "golden", bits=bits, block_size=block_size)

    kept((name, bits, block_size, latent_rank), make, folder)
    store = ArtifactStore(folder / "store")
    return store.load("golden"), store


def reference(name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(ids [sequences, tokens], logits [sequences, tokens, V])."""
    with np.load(golden_folder(name) / "reference.npz") as arrays:
        return arrays["ids"], arrays["logits"]


def _give_latent(folder: Path, rank: int) -> None:
    """Random matrices in the place of those that a latent of another size has."""
    config = json.loads((folder / "config.json").read_text())
    tensors = {name: values.astype(np.float32) for name, values in load_file(folder / "model.safetensors").items()}
    old, random = config["kv_lora_rank"], np.random.default_rng(rank)
    for name, values in tensors.items():
        if name.endswith("kv_a_layernorm.weight"):
            tensors[name] = np.ones(rank, np.float32)
        elif name.endswith("kv_b_proj.weight"):
            tensors[name] = random.normal(0, rank**-0.5, (len(values), rank)).astype(np.float32)
        elif name.endswith("kv_a_proj_with_mqa.weight"):
            latent = random.normal(0, values.shape[1] ** -0.5, (rank, values.shape[1])).astype(np.float32)
            tensors[name] = np.concatenate([latent, values[old:]])
    save_file(tensors, folder / "model.safetensors")
    write_json(folder / "config.json", {**config, "kv_lora_rank": rank})
