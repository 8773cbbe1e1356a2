"""The sampler against a plain one over the full sort, and its distribution with fixed seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.pipeline.sampler import sample
from protos.sampling import Sampling

Logits = npt.NDArray[np.float32]


def logits_of(seed: int, size: int = 3000, spread: float = 3.0) -> Logits:
    return (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)


def plain(logits: Logits, sampling: Sampling, position: int) -> int:
    """All ids sorted, cut to top-k and to min-p of the likeliest, then to top-p of what is left, then drawn."""
    if sampling.temperature == 0:
        return min(range(len(logits)), key=lambda index: (-float(logits[index]), index))
    order = sorted(range(len(logits)), key=lambda index: (-float(logits[index]), index))
    order = order[: sampling.top_k or None]
    top = float(logits[order[0]])
    weights = np.array([np.exp((float(logits[index]) - top) / sampling.temperature) for index in order])
    probabilities = weights / weights.sum()
    kept = [number for number, probability in enumerate(probabilities) if probability >= sampling.min_p * probabilities[0]]
    order, weights = [order[number] for number in kept], weights[kept]
    if sampling.top_p < 1.0:
        count, mass = 0, 0.0
        while mass < sampling.top_p * weights.sum() and count < len(order):
            mass += weights[count]
            count += 1
        order, weights = order[:count], weights[:count]
    if sampling.top_k == 0 and sampling.min_p == 0.0 and sampling.top_p >= 1.0:
        by_id = np.argsort(order)
        order, weights = [order[index] for index in by_id], weights[by_id]
    draw = np.random.Generator(np.random.Philox(key=np.array([sampling.seed or 0, position], np.uint64))).random()
    return order[int(np.searchsorted(np.cumsum(weights), draw * weights.sum(), side="right"))]


@pytest.mark.parametrize("top_k", [0, 1, 2, 40, 1023, 1024, 1025, 2000, 5000])
@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 1e-4, 0.3, 1.0])
def test_equals_the_plain_sampler(top_k: int, top_p: float, min_p: float) -> None:
    for position, temperature in enumerate((0.5, 1.0, 4.0)):
        logits = logits_of(position)
        sampling = Sampling(temperature, top_k, top_p, seed=11, min_p=min_p)
        assert sample(logits, sampling, position) == plain(logits, sampling, position)


@given(
    values=st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([0.2, 0.55, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.2, 0.7, 1.0]),
    temperature=st.sampled_from([0.0, 0.9, 2.5]),
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**20),
)
def test_equals_the_plain_sampler_on_ties(
    values: list[int], top_k: int, top_p: float, min_p: float, temperature: float, seed: int, position: int
) -> None:
    logits = np.array(values, np.float32)
    sampling = Sampling(temperature, top_k, top_p, seed, min_p)
    assert sample(logits, sampling, position) == plain(logits, sampling, position)


def test_greedy_takes_the_first_of_the_largest() -> None:
    logits = np.array([1, 5, 2, 5, -1], np.float32)
    assert sample(logits, Sampling(), 0) == 1
    assert sample(logits, Sampling(top_k=3, top_p=0.5, seed=9, min_p=1.0), 4) == 1


def test_top_k_of_ties_keeps_the_lower_ids() -> None:
    logits = np.zeros(10, np.float32)
    drawn = {sample(logits, Sampling(1.0, top_k=3, seed=1), position) for position in range(100)}
    assert drawn == {0, 1, 2}


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = np.log(np.array([0.1, 0.5, 0.15, 0.25], np.float32))
    for top_p, kept in ((0.49, {1}), (0.51, {1, 3}), (0.76, {1, 2, 3}), (0.95, {0, 1, 2, 3})):
        assert {sample(logits, Sampling(1.0, top_p=top_p, seed=1), position) for position in range(300)} == kept


def test_min_p_keeps_what_has_that_share_of_the_likeliest() -> None:
    logits = np.log(np.array([0.1, 0.5, 0.15, 0.25], np.float32))
    for min_p, kept in ((1.0, {1}), (0.51, {1}), (0.49, {1, 3}), (0.29, {1, 2, 3}), (0.19, {0, 1, 2, 3}), (0.0, {0, 1, 2, 3})):
        assert {sample(logits, Sampling(1.0, seed=1, min_p=min_p), position) for position in range(300)} == kept


def test_min_p_looks_at_probabilities_after_the_temperature() -> None:
    logits = np.log(np.array([0.8, 0.2], np.float32))  # at temperature 2 the second has half of the first's probability
    assert {sample(logits, Sampling(1.0, seed=1, min_p=0.4), position) for position in range(100)} == {0}
    assert {sample(logits, Sampling(2.0, seed=1, min_p=0.4), position) for position in range(100)} == {0, 1}


def test_top_p_is_a_share_of_what_min_p_left() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))  # min_p leaves 4/7 and 3/7
    assert {sample(logits, Sampling(1.0, top_p=0.5, seed=1, min_p=0.6), position) for position in range(100)} == {0}
    assert {sample(logits, Sampling(1.0, top_p=0.5, seed=1), position) for position in range(100)} == {0, 1}


def test_typical_p_keeps_those_as_surprising_as_is_usual() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))  # surprises of 1, 2, 3 and 3 bits; 1.75 on average
    for typical_p, kept in ((0.2, {1}), (0.26, {0, 1}), (0.76, {0, 1, 2}), (0.9, {0, 1, 2, 3}), (1.0, {0, 1, 2, 3})):
        sampling = Sampling(1.0, seed=1, typical_p=typical_p)
        assert {sample(logits, sampling, position) for position in range(300)} == kept, typical_p


def test_typical_p_looks_at_what_the_other_cuts_left() -> None:
    logits = np.log(np.array([0.4, 0.2, 0.2, 0.1, 0.1], np.float32))
    narrow = Sampling(1.0, top_k=3, seed=1, typical_p=0.4)  # 0.5, 0.25, 0.25: a mean of 1.5 bits, to which 1 and 2 are as near
    assert {sample(logits, narrow, position) for position in range(200)} == {0}
    assert {sample(logits, replace(narrow, typical_p=0.6), position) for position in range(200)} == {0, 1}
    assert {sample(logits, Sampling(0.0, typical_p=0.1), position) for position in range(5)} == {0}, "greedy is greedy"


KNOWN_IDS = [  # of the sampler before it knew min_p
    [3678, 3598, 4219, 3762, 763, 4657],
    [2203, 1330, 2821, 2821, 1488, 3593],
    [3245, 1114, 3938, 874, 964, 3984],
    [3121, 2608, 3938, 2774, 2971, 2373],
    [4657, 4657, 4657, 4657, 4657, 4657],
]


def test_ids_of_requests_without_min_p_stay_what_they_were() -> None:
    logits = logits_of(7, size=5000, spread=1.0)
    wishes = (
        Sampling(1.0, seed=5),
        Sampling(0.8, 40, 0.95, seed=6),
        Sampling(1.5, 0, 0.9, seed=7),
        Sampling(1.0, 2000, seed=8),
        Sampling(),
    )
    assert [[sample(logits, wish, position) for position in range(6)] for wish in wishes] == KNOWN_IDS


@pytest.mark.parametrize("sampling", [Sampling(1.0, seed=3), Sampling(0.7, seed=4), Sampling(1.3, 6, 0.9, seed=5)], ids=repr)
def test_draws_as_often_as_the_weights_say(sampling: Sampling) -> None:
    logits = logits_of(0, size=8, spread=1.0)
    weights = np.exp((logits.astype(np.float64) - logits.max()) / sampling.temperature)
    order = np.argsort(-weights)
    if sampling.top_k:
        weights[order[sampling.top_k :]] = 0
    if sampling.top_p < 1:
        mass = np.cumsum(weights[order]) / weights.sum()
        weights[order[int(np.searchsorted(mass, sampling.top_p)) + 1 :]] = 0
    draws = 4000
    counts = np.bincount([sample(logits, sampling, position) for position in range(draws)], minlength=8)
    expected = weights / weights.sum() * draws
    assert (counts[expected == 0] == 0).all()
    held = expected > 0
    # The 99.9 % quantile of chi-square with 7 degrees of freedom is 24.3.
    assert float(((counts - expected)[held] ** 2 / expected[held]).sum()) < 24.3


def test_seed_and_position_decide() -> None:
    logits = logits_of(1)
    first = [sample(logits, Sampling(2.0, seed=1), position) for position in range(50)]
    assert first == [sample(logits.copy(), Sampling(2.0, seed=1), position) for position in range(50)]
    assert len(set(first)) > 25
    assert first != [sample(logits, Sampling(2.0, seed=2), position) for position in range(50)]


def test_large_seeds_are_seeds_of_their_own() -> None:
    logits = logits_of(2)
    seeds = [0, 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]
    assert len({tuple(sample(logits, Sampling(2.0, seed=seed), position) for position in range(20)) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(1.0), Sampling(1e-300), Sampling(1.0, 5, 0.9), Sampling(1.0, min_p=0.5)], ids=repr
)
def test_extreme_logits_are_survived(sampling: Sampling) -> None:
    tiny, huge = np.finfo(np.float32).min, np.finfo(np.float32).max
    inf, nan = np.inf, np.nan
    for values, among in (
        ([1, inf, 2], {1}),
        ([1, inf, nan, inf], {1, 3}),
        ([-inf, 3, -inf], {1}),
        ([-inf, -inf], {0, 1}),
        ([nan, nan], {0, 1}),
        ([nan, 0.0, -inf], {1}),
        ([tiny, huge, tiny], {1}),
    ):
        drawn = {sample(np.array(values, np.float32), sampling, position) for position in range(20)}
        assert drawn <= among, values


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(1.0, top_k=4), Sampling(1.0, typical_p=0.99), Sampling(0.5, top_p=0.9)])
def test_what_is_out_of_reach_is_not_drawn(sampling: Sampling) -> None:
    logits = np.array([-np.inf, 2, -np.inf, 1, -np.inf], np.float32)
    assert {sample(logits, sampling, position) for position in range(300)} <= {1, 3}


def test_low_temperature_is_greedy_and_high_is_even() -> None:
    logits = logits_of(3, size=5)
    assert {sample(logits, Sampling(1e-3), position) for position in range(50)} == {int(logits.argmax())}
    assert {sample(logits, Sampling(1e6), position) for position in range(100)} == set(range(5))
