"""The largest of many numbers, in an order that every machine has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def largest(values: npt.NDArray[np.float64] | npt.NDArray[np.float32], count: int) -> npt.NDArray[np.intp]:
    """Indices of the `count` largest, largest first, equal ones by index: the order must not depend on the partition's whims."""
    if count < len(values):
        threshold = np.partition(values, len(values) - count)[len(values) - count]
        above = np.flatnonzero(values > threshold)
        level = np.flatnonzero(values == threshold)[: count - len(above)]
        chosen = np.concatenate([above, level])
    else:
        chosen = np.arange(len(values))
    return chosen[np.lexsort((chosen, -values[chosen]))]
