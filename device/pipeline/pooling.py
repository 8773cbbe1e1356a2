"""The embedding of a prompt: the mean of its normed hidden rows, chunk by chunk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Pooled:
    """Grows by `add`; how the rows are cut into chunks changes nothing.

    >>> whole, cut = Pooled(), Pooled()
    >>> rows = np.array([[1, 2], [3, 4], [8, 0]], np.float32)
    >>> whole.add(rows), cut.add(rows[:1]), cut.add(rows[1:])
    (None, None, None)
    >>> whole.mean.tolist(), cut.mean.tolist()
    ([4.0, 2.0], [4.0, 2.0])
    """

    def __init__(self) -> None:
        self._sum: npt.NDArray[np.float64] | None = None
        self._rows = 0

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        """[rows, hidden], of which there is at least one."""
        if self._sum is None:
            self._sum = np.zeros(rows.shape[1], np.float64)
        for row in rows:  # in turn: numpy's own sum of an axis adds in another order for another number of rows
            self._sum += row
        self._rows += len(rows)

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        """[hidden]. Behind the first `add`."""
        assert self._sum is not None
        return (self._sum / self._rows).astype(np.float32)
