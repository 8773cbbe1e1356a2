"""Tiny models' stages as a device gets them, for tests of what runs them without a network."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device.blobs import BlobStore
from device.stage_spec import StageSpec, parse_spec
from protos.manifest import Manifest
from protos.v1 import device_pb2
from quantize.artifact.store import ArtifactStore
from tests.support.checkpoints import TinyGlm
from tests.support.ring import load_requests, tiny_model


@dataclass(frozen=True)
class TinyStages:
    """A model, and its stages as load requests, made for `stages` devices that nobody runs."""

    manifest: Manifest
    store: ArtifactStore

    @classmethod
    def make(cls, folder: Path, shape: TinyGlm | None = None, block_size: int = 32) -> TinyStages:
        return cls(*tiny_model(folder, shape or TinyGlm(), block_size))

    @property
    def blob_folder(self) -> Path:
        return self.store.blob_path(next(iter(self.manifest.blobs()))).parent

    def requests(self, stages: int = 1, **shape: Any) -> list[device_pb2.LoadStageRequest]:
        hops = [device_pb2.Hop(device_id=f"device{index + 2:a>10}", address=f"127.0.0.1:{index + 1}") for index in range(stages)]
        return load_requests(self.manifest, hops, **shape)

    def specs(self, stages: int = 1, **shape: Any) -> list[StageSpec]:
        return [parse_spec(request) for request in self.requests(stages, **shape)]


def filled_store(stages: TinyStages, folder: Path) -> BlobStore:
    """A device's store that has all of the model."""
    store = BlobStore(folder)
    for digest in stages.manifest.blobs():
        shutil.copy(stages.store.blob_path(digest), store.folder / digest)
    return store
