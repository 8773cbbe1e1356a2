"""The memories of a simulated chip as bytes that are looked at as arrays: DRAM by its regions, scratchpad, accumulators."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from protos.chip.program import Program, Purpose, Region
from protos.chip.weights import stored_weights
from protos.errors import Corrupt
from protos.ids import Digest
from protos.manifest import Manifest

Bytes = npt.NDArray[np.uint8]
Item = TypeVar("Item", bound=np.generic)


class Dram:
    """Regions of weights are views of the artifact's files, the others are arrays of zeros at first."""

    def __init__(self, regions: Sequence[Region], weights: Mapping[str, Bytes]) -> None:
        ordered = sorted(regions, key=lambda region: region.address)
        self._starts = [region.address for region in ordered]
        self._regions = ordered
        self._bytes = [weights[region.name] if region.purpose == "weights" else np.zeros(region.size_bytes, np.uint8) for region in ordered]

    def region(self, name: str) -> Bytes:
        """Raises KeyError."""
        for region, data in zip(self._regions, self._bytes, strict=True):
            if region.name == name:
                return data
        raise KeyError(name)

    def names(self, purpose: Purpose) -> tuple[str, ...]:
        return tuple(region.name for region in self._regions if region.purpose == purpose)

    def rows(self, address: int, rows: int, size: int, pitch: int) -> Bytes:
        """[rows, size], `pitch` bytes from row to row, of one region. Raises Corrupt for what lies in none."""
        number = bisect.bisect_right(self._starts, address) - 1
        if number < 0:
            raise Corrupt(f"DRAM address {address:#x} is in no region")
        return look(self._bytes[number], address - self._starts[number], (rows, size), pitch, np.uint8)


def look(memory: Bytes, offset: int, shape: tuple[int, int], pitch: int, kind: type[Item]) -> npt.NDArray[Item]:
    """[rows, columns] of `kind` from byte `offset` on. Raises Corrupt beyond the memory's end."""
    dtype = np.dtype(kind)
    rows, columns = shape
    if offset < 0 or offset + (rows - 1) * pitch + columns * dtype.itemsize > memory.nbytes:
        raise Corrupt(f"an access of {rows} x {columns} from {offset:#x} on is beyond the end of a memory")
    return np.ndarray(shape, dtype, memory, offset, (pitch, dtype.itemsize))


def weights_of(program: Program, manifest: Manifest, blob_folder: Path) -> dict[str, Bytes]:
    """The tensors that a program's regions name, mapped from the artifact's blobs. Raises as `stored_weights`."""
    stored = stored_weights(program, manifest)
    return {region.name: mapped(blob_folder / blob.digest, tensor.offset, tensor.size_bytes) for region, blob, tensor in stored}


def mapped(path: Path, offset: int, size_bytes: int) -> Bytes:
    """Bytes of a file. Raises Corrupt where it does not have them."""
    try:
        return np.memmap(path, np.uint8, "r", offset, (size_bytes,))
    except (OSError, ValueError) as error:
        raise Corrupt(f"weights cannot be mapped from {path.name[:12]}: {error}", digest=Digest(path.name)) from error
