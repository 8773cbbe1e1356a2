"""The KV cache of one stage: for each slot group one contiguous array per layer, in which sequences have slots."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime as ort

from device.engine.session import share
from device.stage_spec import Shape


class SlotGroup:
    """Keys and values [slots, kv_heads, capacity, head_dim] per layer, and how many positions of each slot hold something.

    The arrays are reserved, not touched: the system gives pages as rows are written.
    """

    def __init__(self, shape: Shape) -> None:
        size = (shape.slots_per_group, shape.kv_heads, shape.capacity, shape.head_dim)
        self._layers = [(layer, np.zeros(size, np.float32), np.zeros(size, np.float32)) for layer in shape.layers]
        self.lengths = [0] * shape.slots_per_group

    def bound(self, start: int, stop: int) -> Iterator[tuple[str, str, ort.OrtValue]]:
        """(past name, present name, value) for slots [start, stop): both names take the same memory, so the cache grows in place."""
        for layer, keys, values in self._layers:
            yield f"past_key.{layer}", f"present_key.{layer}", share(keys[start:stop])
            yield f"past_value.{layer}", f"present_value.{layer}", share(values[start:stop])

    def free_all(self) -> None:
        """A new list, not the old one cleared: a run that was given up may still end, and writes its lengths into what it began with."""
        self.lengths = [0] * len(self.lengths)

    def move(self, source: int, target: int) -> None:
        """Copy one slot's rows into another, to close a hole."""
        length = self.lengths[source]
        for _, keys, values in self._layers:
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]
        self.lengths[target], self.lengths[source] = length, 0
