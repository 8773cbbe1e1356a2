"""The memories of a simulated chip as bytes that are looked at as arrays: DRAM by its regions, scratchpad, accumulators."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from protos.chip.program import Program, Purpose, Region
from protos.errors import Corrupt, InvalidInput
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
    """The tensors that a program's regions name, mapped from the artifact's blobs.

    Raises InvalidInput for a program of another artifact, Corrupt where a tensor has another size.
    """
    if program.target.artifact != manifest.digest:
        raise InvalidInput("the program was compiled for another artifact", advice="compile it again: glmfleet compile")
    found: dict[str, Bytes] = {}
    for region in program.regions:
        if region.purpose != "weights":
            continue
        part, _, name = region.name.partition("/")
        variant = manifest.part(part).variants[0]
        tensor = next((tensor for tensor in variant.tensors if tensor.name == name), None)
        if tensor is None or tensor.size_bytes != region.size_bytes:
            raise Corrupt(f"the artifact has no {region.name} of {region.size_bytes} bytes", advice="compile the program again")
        path = blob_folder / variant.blobs[tensor.blob].digest
        found[region.name] = np.memmap(path, np.uint8, "r", tensor.offset, (tensor.size_bytes,))
    return found
