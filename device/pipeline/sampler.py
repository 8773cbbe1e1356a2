"""The next token, as a pure function of (logits, parameters, position)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from device.pipeline.largest import largest
from protos.sampling import Sampling

# Enough for any usual top_p: a softmax's mass beyond its 1,024 largest is looked at only when it has to be.
_CANDIDATES = 1024


def sample(logits: npt.NDArray[np.float32], sampling: Sampling, position: int) -> int:
    """Token id for one row of logits [vocab]. The same arguments give the same id on every machine with the same logits.

    >>> logits = np.array([0.0, 3.0, 2.9], np.float32)
    >>> sample(logits, Sampling(temperature=0.0), 7)  # greedy: the largest
    1
    >>> {sample(logits, Sampling(temperature=1.0, top_k=2, seed=5), position) for position in range(20)}
    {1, 2}

    After the temperature, top_k and min_p each cut what is left to the likeliest; top_p cuts that again, by its share of what they left (as
    vLLM does), and typical_p what top_p left. A logit of minus infinity is never chosen unless all are.
    """
    likeliest = logits.argmax()  # the first that is not a number, if there is one
    if not np.isfinite(logits[likeliest]):
        # An overflow in a layer must not make every weight not-a-number: infinite becomes the largest finite number, NaN the least.
        logits = np.nan_to_num(logits, nan=float(np.finfo(np.float32).min))
        likeliest = logits.argmax()
    if sampling.temperature <= 0.0:
        return int(likeliest)
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the largest to minus infinity, as it should
        scaled = (logits.astype(np.float64) - float(logits[likeliest])) / sampling.temperature
    cut = sampling.top_k > 0 or sampling.min_p > 0.0
    if not cut and sampling.top_p >= 1.0 and sampling.typical_p >= 1.0:
        return _draw(np.arange(len(scaled)), np.exp(scaled), sampling.seed or 0, position)
    limit = min(sampling.top_k or len(scaled), len(scaled))
    if sampling.min_p > 0.0:  # the likeliest is at 0
        limit = min(limit, int(np.count_nonzero(scaled >= math.log(sampling.min_p))))
    ids = largest(scaled, min(limit, _CANDIDATES))
    if sampling.top_p < 1.0:
        total = np.exp(scaled[largest(scaled, limit)]).sum() if cut else np.exp(scaled).sum()
        if np.exp(scaled[ids]).sum() < sampling.top_p * total:
            ids = largest(scaled, limit)
        mass = np.cumsum(np.exp(scaled[ids])) / total
        ids = ids[: int(np.searchsorted(mass, sampling.top_p)) + 1]
    elif len(ids) < limit:
        ids = largest(scaled, limit)
    if sampling.typical_p < 1.0:
        ids = _typical(ids, np.exp(scaled[ids]), sampling.typical_p)
    return _draw(ids, np.exp(scaled[ids]), sampling.seed or 0, position)


def _typical(ids: npt.NDArray[np.intp], weights: npt.NDArray[np.float64], share: float) -> npt.NDArray[np.intp]:
    """Those whose surprise is nearest to the mean surprise, until they sum up to `share` (Meister et al., Locally Typical Sampling)."""
    probabilities = weights / weights.sum()
    surprise = -np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    order = np.lexsort((ids, np.abs(surprise - (probabilities * surprise).sum())))
    count = int(np.searchsorted(np.cumsum(probabilities[order]), share)) + 1
    return ids[np.sort(order[:count])]


def _draw(ids: npt.NDArray[np.intp], weights: npt.NDArray[np.float64], seed: int, position: int) -> int:
    # A counter-based generator: the draw at a position needs none of the draws before it.
    uniform = np.random.Generator(np.random.Philox(key=np.array([seed, position], np.uint64))).random()
    cumulative = np.cumsum(weights)
    last = int(np.searchsorted(cumulative, cumulative[-1]))  # rounding must not lead to those behind it, whose weight is nothing
    return int(ids[min(int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right")), last)])
