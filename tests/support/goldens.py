"""Golden checkpoints (tests/goldens/make.py) and what transformers computes with them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.importing.importer import import_model
from tests.support.checkpoints import tokenizer_json, write_json

NAMES = sorted(path.parent.name for path in (Path(__file__).parents[1] / "goldens").glob("*/reference.npz"))


def golden_folder(name: str) -> Path:
    return Path(__file__).parents[1] / "goldens" / name


def import_golden(name: str, folder: Path, bits: Literal[8, 32] = 8, block_size: int | None = None) -> tuple[Manifest, ArtifactStore]:
    """Into a store in `folder`, with a tokenizer that the checkpoints do without."""
    checkpoint_folder = Path(shutil.copytree(golden_folder(name), folder / "checkpoint", dirs_exist_ok=True))
    write_json(checkpoint_folder / "tokenizer.json", tokenizer_json())
    store = ArtifactStore(folder / "store")
    with open_checkpoint(checkpoint_folder) as checkpoint:
        return import_model(checkpoint, store, "golden", bits=bits, block_size=block_size), store


def reference(name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(ids [sequences, tokens], logits [sequences, tokens, V])."""
    with np.load(golden_folder(name) / "reference.npz") as arrays:
        return arrays["ids"], arrays["logits"]
