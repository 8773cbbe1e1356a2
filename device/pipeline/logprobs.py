"""The probabilities that the model itself gave to a token and to the likeliest ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device.pipeline.largest import largest


@dataclass(frozen=True)
class Logprobs:
    """Natural logarithms: `chosen` of one token, `values` of the tokens `ids`, the likeliest first, equal ones by id."""

    chosen: float
    ids: tuple[int, ...] = ()
    values: tuple[float, ...] = ()


def logprobs(logits: npt.NDArray[np.float32], token: int, count: int) -> Logprobs:
    """Of one row of logits [vocab], as the model gave them: the log-softmax, summed in float64. A logit that is no number counts as the
    least there is, as in the sampler.

    >>> row = np.log(np.array([0.5, 0.125, 0.25, 0.125], np.float32))
    >>> found = logprobs(row, 1, 2)
    >>> round(2.718281828**found.chosen, 6), found.ids
    (0.125, (0, 2))
    """
    values = np.nan_to_num(logits, nan=float(np.finfo(np.float32).min)).astype(np.float64)
    top = float(values.max())
    values -= top + float(np.log(np.exp(values - top).sum()))
    ids = largest(values, min(count, len(values))) if count else ()
    return Logprobs(float(values[token]), tuple(int(one) for one in ids), tuple(float(values[one]) for one in ids))
