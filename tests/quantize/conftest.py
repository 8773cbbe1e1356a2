from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.importing.importer import import_model
from tests.support.checkpoints import TinyGlm, write_checkpoint


@dataclass(frozen=True)
class Imported:
    manifest: Manifest
    store: ArtifactStore

    @property
    def blob_folder(self) -> Path:
        return self.store.blob_folder


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Imported]:
    """A tiny model in a store of its own, imported once for all tests: read only."""
    known: dict[tuple[TinyGlm, int, bool, Literal[8, 32]], Imported] = {}

    def get(model: TinyGlm, block_size: int = 32, rotate: bool = True, bits: Literal[8, 32] = 8) -> Imported:
        if (model, block_size, rotate, bits) not in known:
            root = tmp_path_factory.mktemp("imported")
            store = ArtifactStore(root / "store")
            # Tens of imports of ten files each: waiting for the disk would be most of the suite's time.
            with pytest.MonkeyPatch.context() as patch, open_checkpoint(write_checkpoint(root / "checkpoint", model)) as checkpoint:
                patch.setattr(os, "fsync", lambda _: None)
                manifest = import_model(checkpoint, store, "tiny", block_size=block_size, rotate=rotate, bits=bits)
            known[model, block_size, rotate, bits] = Imported(manifest, store)
        return known[model, block_size, rotate, bits]

    return get
