"""The KV cache of one stage: for each slot group one contiguous array per layer, in which sequences have slots."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterator
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from device.engine.engine import Group
from device.stage_spec import StageShape
from protos.dtypes import KvDtype
from protos.errors import InvalidInput
from protos.even import even_up

Cache: TypeAlias = "npt.NDArray[np.float32 | np.int8]"

_NUMPY_TYPES: dict[KvDtype, type[np.float32] | type[np.int8]] = {"float32": np.float32, "int8": np.int8}


class SlotGroup:
    """Keys and values [slots, kv_heads, capacity, head_dim] per layer, one array where they are the same, and how many positions of each
    slot hold something: rows that stay, and behind them drafts.

    The arrays are reserved, not touched: the system gives pages as rows are written.
    """

    def __init__(self, shape: StageShape) -> None:
        size = (shape.slots_per_group, shape.kv_heads, shape.capacity, shape.head_dim)
        dtype = _NUMPY_TYPES[shape.kv_dtype]
        self._layers: list[tuple[int, Cache, Cache]]
        self._layers = []
        for layer in shape.layers:
            keys = reserved(size, dtype)
            self._layers.append((layer, keys, keys if shape.values_are_keys else reserved(size, dtype)))
        self.lengths = [0] * shape.slots_per_group
        self.drafted = [0] * shape.slots_per_group

    def layers(self) -> Iterator[tuple[int, Cache, Cache]]:
        """(layer, keys, values): the arrays themselves."""
        yield from self._layers

    def free_all(self) -> None:
        """A new list, not the old one cleared: a run that was given up may still end, and writes its lengths into what it began with."""
        self.lengths = [0] * len(self.lengths)
        self.drafted = [0] * len(self.drafted)

    def swap(self, one: int, other: int, group: SlotGroup | None = None) -> None:
        """Let the rows of slot `one` and of slot `other` (of another group of the stage, where one is named) change places."""
        group = group or self
        rows = max(self.lengths[one] + self.drafted[one], group.lengths[other] + group.drafted[other])
        for here, there in zip(self._caches(), group._caches(), strict=True):
            kept = here[one, :, :rows].copy()
            here[one, :, :rows] = there[other, :, :rows]
            there[other, :, :rows] = kept
        self.lengths[one], group.lengths[other] = group.lengths[other], self.lengths[one]
        self.drafted[one], group.drafted[other] = group.drafted[other], self.drafted[one]

    def copy(self, source: int, target: int, rows: int) -> None:
        """Give a slot the first `rows` rows of another, and no more."""
        for cache in self._caches():
            cache[target, :, :rows] = cache[source, :, :rows]
        self.lengths[target], self.drafted[target] = rows, 0

    def rows(self, slot: int, start: int, stop: int) -> bytes:
        """Of positions [start, stop) of a slot, for `put`: [caches, kv_heads, stop - start, head_dim]."""
        return b"".join(cache[slot, :, start:stop].tobytes() for cache in self._caches())

    def put(self, slot: int, start: int, count: int, data: bytes) -> None:
        """What `rows` gave elsewhere becomes this slot's, which ends behind it. Raises InvalidInput for another size."""
        caches = list(self._caches())
        heads, capacity, size = caches[0].shape[1:]
        wanted = len(caches) * heads * count * size * caches[0].itemsize
        if start > self.lengths[slot] or start + count > capacity or len(data) != wanted:
            raise InvalidInput(f"{len(data)} bytes of a cache at position {start} of a slot that holds {self.lengths[slot]} of {capacity}")
        given = np.frombuffer(data, caches[0].dtype).reshape(len(caches), heads, count, size)
        for cache, rows in zip(caches, given, strict=True):
            cache[slot, :, start : start + count] = rows
        self.lengths[slot], self.drafted[slot] = start + count, 0

    def _caches(self) -> Iterator[Cache]:
        for _, keys, values in self._layers:
            yield keys
            if values is not keys:
                yield values


def check_run(group: Group, slot: int, start: int, count: int, context: int) -> None:
    """Raises InvalidInput for a run that leaves a gap behind what the slot holds, or has no room for the row that pads it."""
    held = group.lengths[slot] + group.drafted[slot]
    if start > held or start + even_up(count) > context:
        raise InvalidInput(f"a run of [{start}, {start + count}) in a slot that holds {held} of {context}")


def reserved(size: tuple[int, ...], dtype: type[np.float32] | type[np.int8]) -> Cache:
    """An array of zeros that takes memory only where it is written, in small pages.

    numpy asks for huge pages for its large arrays. One of 2 MiB spans the rows of several slots and heads, so a few rows in each slot
    would take all of the cache (measured at 135M, 16 slots of 1,280 positions: 1.2 GB instead of 0.3).
    """
    memory = mmap.mmap(-1, math.prod(size) * np.dtype(dtype).itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return cast(Cache, np.frombuffer(memory, dtype).reshape(size))
