"""A distribution of many values in little room: a relative-error quantiles sketch, two of which make one.

Cormode, Karnin, Liberty, Thaler, Veselý: Relative Error Streaming Quantiles (2021), by Apache DataSketches. Its error is of ranks, and the
smaller the higher the rank is: a p99 is closer than a median. Few values (some 50) are kept as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasketches import req_floats_sketch

ACCURACY = 12  # the library's own k: a rank is off by some 1 % at the median, and by less above


class Sketch:
    """Values are kept as float32: to seven digits."""

    def __init__(self, kept: req_floats_sketch) -> None:
        self._kept = kept

    @classmethod
    def of(cls, values: Sequence[float]) -> Sketch:
        kept = req_floats_sketch(ACCURACY, True)
        kept.update(np.asarray(values, np.float32))
        return cls(kept)

    @classmethod
    def unpacked(cls, data: bytes) -> Sketch:
        return cls(req_floats_sketch.deserialize(data))

    def packed(self) -> bytes:
        """In the library's own form, which its other languages read."""
        return bytes(self._kept.serialize())

    def merged(self, other: Sketch) -> Sketch:
        """This one, which has the values of both from now on."""
        self._kept.merge(other._kept)
        return self

    @property
    def count(self) -> int:
        return int(self._kept.n)

    def percentile(self, percent: float) -> float | None:
        """The least of the values that as many as `percent` of 100 do not exceed; None of none.

        >>> Sketch.of([1, 2, 3, 4]).percentile(50), Sketch.of([1, 2, 3, 4]).percentile(99), Sketch.of([]).percentile(50)
        (2.0, 4.0, None)
        """
        return float(self._kept.get_quantile(percent / 100, True)) if self.count else None
