"""How far a model's predictions are from a reference's, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from quantize.blocks import Floats
from quantize.quality.windows import Window

Doubles = npt.NDArray[np.float64]

ROWS_AT_ONCE = 64  # of logits: 64 x 49,152 fp32 are 12 MB
_RESAMPLES = 2000


@dataclass(frozen=True)
class WindowScore:
    """Sums over the predictions of one window: log-likelihoods in nats, squares of logits."""

    tokens: int
    reference_nll: float
    nll: float
    kl: float
    agreed: int
    error_square: float
    reference_square: float


@dataclass(frozen=True)
class MeanInterval:
    """With its 95 % interval: percentiles of the bootstrap over windows."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Quality:
    """`perplexity_change` is perplexity / reference_perplexity - 1; `kl_divergence` KL(reference || model) in nats per token."""

    reference_perplexity: MeanInterval
    perplexity: MeanInterval
    perplexity_change: MeanInterval
    kl_divergence: MeanInterval
    top1_agreement: MeanInterval
    logits_relative_rms: MeanInterval


@dataclass(frozen=True)
class Distance:
    """Between two models' logits, whatever came next: largest and mean |difference|, KL(reference || model) in nats per token."""

    tokens: int
    max_abs: float
    mean_abs: float
    kl: float
    top1_agreement: float


def score(reference: Floats, logits: Floats, window: Window) -> WindowScore:
    """Of logits [S, V], each row of which predicts the token after it; the last predicts nothing."""
    reference, logits, token_ids = reference[window.prefix :], logits[window.prefix :], window.token_ids[window.prefix :]
    sums = np.zeros(6)
    for start in range(0, len(token_ids) - 1, ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, len(token_ids) - 1))
        truth, found, targets = reference[rows], logits[rows], token_ids[rows.start + 1 : rows.stop + 1]
        p, q = log_softmax(truth), log_softmax(found)
        at = np.arange(len(targets))
        sums += (
            -p[at, targets].sum(dtype=np.float64),
            -q[at, targets].sum(dtype=np.float64),
            np.sum(np.exp(p) * (p - q), dtype=np.float64),
            np.sum(truth.argmax(axis=1) == found.argmax(axis=1)),
            np.sum(np.square(found - truth), dtype=np.float64),
            np.sum(np.square(truth), dtype=np.float64),
        )
    reference_nll, nll, kl, agreed, error_square, reference_square = sums.tolist()
    return WindowScore(len(token_ids) - 1, reference_nll, nll, kl, int(agreed), error_square, reference_square)


def quality(scores: Sequence[WindowScore], seed: int = 0) -> Quality:
    """Each figure over all windows, and its interval from `_RESAMPLES` draws of as many windows."""
    table = np.array([astuple(window) for window in scores], np.float64)

    def estimated(figure: Callable[[Doubles], Doubles]) -> MeanInterval:
        return estimate(table, figure, seed)

    return Quality(
        reference_perplexity=estimated(lambda sums: np.exp(sums[1] / sums[0])),
        perplexity=estimated(lambda sums: np.exp(sums[2] / sums[0])),
        perplexity_change=estimated(lambda sums: np.exp((sums[2] - sums[1]) / sums[0]) - 1),
        kl_divergence=estimated(lambda sums: sums[3] / sums[0]),
        top1_agreement=estimated(lambda sums: sums[4] / sums[0]),
        logits_relative_rms=estimated(lambda sums: np.sqrt(sums[5] / sums[6])),
    )


def relative_rms(squares: Doubles, seed: int = 0) -> MeanInterval:
    """Of sums of squares [windows, 2]: of the error, of what it is an error of."""
    return estimate(squares, lambda sums: np.sqrt(sums[0] / sums[1]), seed)


def estimate(table: Doubles, figure: Callable[[Doubles], Doubles], seed: int = 0) -> MeanInterval:
    """`figure` of the column sums of a table [windows, columns], and of those of as many windows drawn with repetition."""
    draws = np.random.default_rng(seed).integers(0, len(table), (_RESAMPLES, len(table)))
    whole, resampled = table.sum(axis=0), table[draws].sum(axis=1)
    low, high = np.percentile(figure(resampled.T), [2.5, 97.5])
    return MeanInterval(float(figure(whole)), float(low), float(high))


def distance(pairs: Sequence[tuple[Floats, Floats]]) -> Distance:
    """Of (reference, found) logits, each [S, V]; every row counts."""
    tokens, largest, sums, kl, agreed = 0, 0.0, 0.0, 0.0, 0
    elements = 0
    for reference, found in pairs:
        for start in range(0, len(reference), ROWS_AT_ONCE):
            truth, own = reference[start : start + ROWS_AT_ONCE], found[start : start + ROWS_AT_ONCE]
            difference = np.abs(truth - own)
            p, q = log_softmax(truth), log_softmax(own)
            largest = max(largest, float(difference.max()))
            sums += float(difference.sum(dtype=np.float64))
            kl += float(np.sum(np.exp(p) * (p - q), dtype=np.float64))
            agreed += int(np.sum(truth.argmax(axis=1) == own.argmax(axis=1)))
            tokens += len(truth)
            elements += truth.size
    return Distance(tokens, largest, sums / elements, kl / tokens, agreed / tokens)


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
