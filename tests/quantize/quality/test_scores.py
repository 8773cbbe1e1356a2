"""Scores by hand, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from quantize.quality.scores import WindowScore, distance, quality, score
from quantize.quality.windows import Window

TARGETS = Window(np.array([0, 2, 1, 2], np.int64))
TRUTH = np.log(np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]], np.float32))
EVEN = np.zeros((4, 3), np.float32)


def test_a_model_that_is_the_reference() -> None:
    same = score(TRUTH, TRUTH, TARGETS)
    assert (same.tokens, same.kl, same.error_square, same.agreed) == (3, 0, 0, 3)
    # The last row predicts nothing: 0.5, 0.3 and 0.8 are what the others gave to what came.
    assert same.nll == same.reference_nll == pytest.approx(-np.log(0.5 * 0.3 * 0.8))


def test_sums_by_hand() -> None:
    found = score(TRUTH, EVEN, TARGETS)
    assert found.nll == pytest.approx(3 * np.log(3))
    odds = np.exp(TRUTH[:3].astype(np.float64))
    assert found.kl == pytest.approx((odds * np.log(odds * 3)).sum())
    assert found.agreed == 1  # argmax of equals is the first
    assert found.error_square == found.reference_square == pytest.approx(np.square(TRUTH[:3].astype(np.float64)).sum())


def test_a_constant_added_to_logits_is_no_divergence() -> None:
    assert score(TRUTH, TRUTH + 5, TARGETS).kl == pytest.approx(0, abs=1e-6)


def test_a_prefix_predicts_nothing() -> None:
    found = score(TRUTH, EVEN, Window(TARGETS.token_ids, prefix=2))
    assert found.tokens == 1
    assert found.reference_nll == pytest.approx(-np.log(0.8))  # of the third row only


def test_many_rows_are_scored_in_pieces() -> None:
    random = np.random.default_rng(0)
    truth, found = random.standard_normal((2, 300, 11)).astype(np.float32)
    token_ids = random.integers(0, 11, 300)
    whole = score(truth, found, Window(token_ids))
    assert whole.tokens == 299
    assert whole.agreed == int((truth[:-1].argmax(1) == found[:-1].argmax(1)).sum())
    assert whole.error_square == pytest.approx(float(np.square(truth - found)[:-1].sum()), rel=1e-4)


def test_intervals_hold_the_value_and_shrink_to_it_when_windows_agree() -> None:
    random = np.random.default_rng(0)
    scores = [WindowScore(511, nll, nll + 2, kl, 490, 4.0, 10_000.0) for nll, kl in random.uniform((1100, 1), (1300, 3), (40, 2)).tolist()]
    found = quality(scores)
    for estimate in (found.perplexity, found.reference_perplexity, found.kl_divergence):
        assert estimate.low < estimate.value < estimate.high
    assert found.perplexity_change.value == pytest.approx(np.exp(2 / 511) - 1)
    assert found.perplexity_change.high - found.perplexity_change.low < 1e-12
    assert found.top1_agreement.value == pytest.approx(490 / 511)
    assert found.logits_relative_rms.value == pytest.approx(0.02)
    assert quality(scores) == found


def test_a_distance_by_hand() -> None:
    found = distance([(TRUTH, TRUTH + np.float32(0.5)), (TRUTH[:1], EVEN[:1])])
    assert found.tokens == 5
    assert found.max_abs == pytest.approx(-np.log(0.2), rel=1e-6)
    assert found.mean_abs == pytest.approx((12 * 0.5 - np.log([0.2, 0.3, 0.5]).sum()) / 15, rel=1e-6)
    assert found.kl == pytest.approx((np.log(3) + sum(p * np.log(p) for p in (0.2, 0.3, 0.5))) / 5, abs=1e-6)
    assert found.top1_agreement == pytest.approx(0.8)
