"""Whether a device's disk takes a share of a model: what it lacks, beside what it has to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from protos.ids import Digest
from protos.manifest import Manifest
from protos.sizes import bytes_text
from quantize.parts import EMBEDDING, HEAD, POSITIONS, layer_parts, stage_blobs

Refused: TypeAlias = "NDArray[np.bool_]"

_NAMED = 3


@dataclass(frozen=True)
class Storage:
    """Of one device, for one model. Where room is needed, it drops what no loaded stage uses, but not what the new stage does."""

    free_bytes: int  # with all that can be dropped
    present: frozenset[Digest] = frozenset()  # blobs of the model that are here whole
    in_use: frozenset[Digest] = frozenset()  # of those, what a loaded stage uses: they are not among what can be dropped
    problem: str = ""  # why it can keep no more, one line

    @property
    def words(self) -> str:
        room = f"room for {bytes_text(self.free_bytes)} on its disk" if self.free_bytes else "no room on its disk"
        return f"{room}: {self.problem}" if self.problem else room


class StorageTables:
    """Which runs of layers a storage takes. A blob that several layers share counts for each of them."""

    def __init__(self, manifest: Manifest) -> None:
        layers = [layer_parts(manifest, layer) for layer in range(manifest.config.layers)]
        positions = tuple(part.name for part in manifest.parts if part.name == POSITIONS)
        self._layers = [_sizes(manifest, parts) for parts in layers]
        self._head = _sizes(manifest, (EMBEDDING, *positions, HEAD))
        self._body = _sizes(manifest, positions)
        self._known: dict[Storage, tuple[Refused, Refused]] = {}

    def forbidden(self, storage: Storage) -> tuple[Refused, Refused]:
        """(of the head: layers [0, stop), of others: layers [first, stop)): true where they do not fit."""
        if (found := self._known.get(storage)) is None:
            lacking, kept = (np.cumsum([0, *sums]) for sums in zip(*(_split(each, storage) for each in self._layers), strict=True))
            head, body = _split(self._head, storage), _split(self._body, storage)
            found = self._known[storage] = (
                _forbids(storage, head[0] + lacking, head[1] + kept),
                _forbids(storage, body[0] + lacking[None, :] - lacking[:, None], body[1] + kept[None, :] - kept[:, None]),
            )
        return found


def words_of(devices: Sequence[tuple[str, Storage]]) -> list[str]:
    """One line each for (name, storage) of those whose disk does not take any share."""
    lines = [f"{name}: {storage.words}" for name, storage in devices[:_NAMED]]
    if len(devices) > _NAMED:
        lines.append(f"{len(devices) - _NAMED} more devices have too little room on their disks for any share")
    return lines


def _sizes(manifest: Manifest, parts: Sequence[str]) -> dict[Digest, int]:
    return {blob.digest: blob.size_bytes for blob in stage_blobs(manifest, parts)}


def _split(blobs: dict[Digest, int], storage: Storage) -> tuple[int, int]:
    """Bytes that it lacks, and those that it has and must keep."""
    lacking = sum(size for digest, size in blobs.items() if digest not in storage.present)
    kept = sum(size for digest, size in blobs.items() if digest in storage.present - storage.in_use)
    return lacking, kept


def _forbids(storage: Storage, lacking: NDArray[np.int64], kept: NDArray[np.int64]) -> Refused:
    refused: Refused = (lacking > 0) & (lacking + kept > storage.free_bytes)
    return refused
