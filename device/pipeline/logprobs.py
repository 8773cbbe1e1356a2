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
    """Of one row of logits [vocab], as the model gave them: the log-softmax, its exponentials in float32 and summed in float64. A logit
    that is no number counts as the least there is, as in the sampler.

    >>> row = np.log(np.array([0.5, 0.125, 0.25, 0.125], np.float32))
    >>> found = logprobs(row, 1, 2)
    >>> round(2.718281828**found.chosen, 6), found.ids
    (0.125, (0, 2))
    """
    top = logits.max()  # not a number, if one is none
    if not np.isfinite(top):
        logits = np.nan_to_num(logits, nan=float(np.finfo(np.float32).min))
        top = logits.max()
    with np.errstate(over="ignore"):  # the differences of what is finite may not be
        whole = float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))
    ids = largest(logits, min(count, len(logits))) if count else ()
    return Logprobs(float(logits[token]) - whole, tuple(int(one) for one in ids), tuple(float(logits[one]) - whole for one in ids))
