"""Penalties and bans against plain ones, token by token."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.pipeline.token_rules import logit_rules
from protos.sampling import ANY_TOKEN, GREEDY, Sampling, TokenRules

END = 9


def applied(
    logits: Sequence[float], rules: TokenRules, answer: Sequence[int] = (), prompt: Sequence[int] = (), sampling: Sampling = GREEDY
) -> list[float]:
    given_logits = np.array(logits, np.float32)
    kept = given_logits.copy()
    found: npt.NDArray[np.float32] = logit_rules(rules, sampling, prompt, [END]).apply(given_logits, answer)
    assert np.array_equal(given_logits, kept, equal_nan=True), "what was given is changed"
    return [float(value) for value in found]


def open_ids(rules: TokenRules, answer: Sequence[int] = ()) -> set[int]:
    return {index for index, value in enumerate(applied([1.0] * 10, rules, answer)) if np.isfinite(value)}


def test_without_rules_the_logits_are_the_same_object() -> None:
    logits = np.ones(10, np.float32)
    assert logit_rules(ANY_TOKEN, GREEDY, [1, 2], [END]).apply(logits, [3]) is logits


def test_what_was_said_gets_less_likely_whatever_its_sign() -> None:
    sampling = Sampling(repetition_penalty=2.0)
    assert applied([4, -4, 4, -4, 0, 3], ANY_TOKEN, [0, 0, 1], [1, 4], sampling) == [2, -8, 4, -4, 0, 3]
    assert applied([4, -4], ANY_TOKEN, [0], [1], Sampling(repetition_penalty=0.5)) == [8, -2], "below 1 it gets likelier"


def test_presence_and_frequency_count_the_answer_alone() -> None:
    wish = Sampling(presence_penalty=0.5, frequency_penalty=0.25)
    assert applied([4, 4, 4, 4], ANY_TOKEN, [0, 0, 1], [2, 2], wish) == [3.0, 3.25, 4, 4]
    assert applied([4, 4], ANY_TOKEN, [0], [], Sampling(presence_penalty=-2)) == [6, 4], "below 0 it gets likelier"


def test_a_bias_is_added_and_comes_before_the_penalties() -> None:
    rules = TokenRules(logit_bias=((0, -5.0), (2, 100.0)))
    assert applied([4, 4, 4], rules) == [-1, 4, 104]
    assert applied([4, 4, 4], rules, [0, 2], sampling=Sampling(repetition_penalty=2.0)) == [-2, 4, 52], "as vLLM has it"
    assert applied([3.0e38, 1], TokenRules(logit_bias=((0, 100.0),))) == pytest.approx([3.0e38, 1])


def test_allowed_tokens_are_all_there_are() -> None:
    assert open_ids(TokenRules(allowed_token_ids=(7, 2, 2))) == {2, 7}


def test_an_answer_cannot_end_before_it_is_long_enough() -> None:
    rules = TokenRules(min_tokens=2)
    assert [END in open_ids(rules, [1] * length) for length in range(4)] == [False, False, True, True]
    assert open_ids(rules) == set(range(10)) - {END}


def test_a_bad_word_is_not_completed() -> None:
    rules = TokenRules(bad_words=((5,), (1, 2), (3, 4, 6)))
    assert open_ids(rules) == set(range(10)) - {5}
    assert open_ids(rules, [7, 1]) == set(range(10)) - {5, 2}
    assert open_ids(rules, [1, 7]) == set(range(10)) - {5}
    assert open_ids(rules, [3, 4]) == set(range(10)) - {5, 6}
    assert open_ids(rules, [4]) == set(range(10)) - {5}


def test_bans_that_leave_nothing_do_not_hold() -> None:
    assert open_ids(TokenRules(allowed_token_ids=(END,), min_tokens=3)) == {END}
    assert open_ids(TokenRules(allowed_token_ids=(5, 6), bad_words=((5,), (6,)))) == {5, 6}
    assert open_ids(TokenRules(bad_words=tuple((token,) for token in range(10)))) == set(range(10))


# In a process of its own: here others have imported it.
ANSWER = """
import sys
import numpy as np
from device.pipeline.token_rules import logit_rules
from protos.sampling import Sampling, TokenRules
rules = logit_rules(TokenRules(allowed_token_ids=(3, 1, 3)), Sampling(0.0, 1.0, 0, repetition_penalty=2.0), [1, 2, 1], {5})
found = rules.apply(np.ones(6, np.float32), [1, 3])
print(found[[1, 3]].tolist(), "numpy.ma" in sys.modules)
"""


def test_what_a_request_takes_for_good_is_no_module_of_numpys() -> None:
    """Else a device keeps 1.6 MiB for its first request, which wait 9 ms for it."""
    told = subprocess.run([sys.executable, "-c", ANSWER], capture_output=True, text=True, check=True, timeout=60).stdout
    assert told == "[0.5, 0.5] False\n"


def test_an_end_that_the_vocabulary_lacks_is_nothing() -> None:
    logits = np.ones(4, np.float32)
    assert np.isfinite(logit_rules(TokenRules(min_tokens=3), GREEDY, [], [END]).apply(logits, [])).all()


@pytest.mark.parametrize("rules", [TokenRules(min_tokens=1), TokenRules(allowed_token_ids=(0, 1, 2)), TokenRules(bad_words=((3,),))])
def test_numbers_that_are_none_do_not_become_likely(rules: TokenRules) -> None:
    found = applied([np.nan, 2.0, -np.inf, np.inf], rules)
    assert not np.isnan(found).any()
    assert found[0] <= -1e38


@given(
    values=st.lists(st.floats(-8, 8, width=32), min_size=10, max_size=10),
    prompt=st.lists(st.integers(0, 9), max_size=6),
    answer=st.lists(st.integers(0, 9), max_size=6),
    penalty=st.sampled_from([0.5, 1.0, 1.5]),
    presence=st.sampled_from([-0.5, 0.0, 1.0]),
    frequency=st.sampled_from([0.0, 0.75]),
    bias=st.dictionaries(st.integers(0, 9), st.floats(-100, 100, width=16), max_size=3),
    allowed=st.lists(st.integers(0, 9), max_size=4),
    runs=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), max_size=3),
    least=st.integers(0, 4),
)
def test_equals_the_plain_rules(
    values: list[float],
    prompt: list[int],
    answer: list[int],
    penalty: float,
    presence: float,
    frequency: float,
    bias: dict[int, float],
    allowed: list[int],
    runs: list[list[int]],
    least: int,
) -> None:
    rules = TokenRules(least, tuple(allowed), tuple(map(tuple, runs)), tuple(bias.items()))
    may = set(allowed) or set(range(10))
    banned = {run[-1] for run in runs if [*answer, run[-1]][-len(run) :] == run} | ({END} if len(answer) < least else set())
    left = (may - banned) or may
    expected = []
    for token, value in enumerate(values):
        value = value + bias.get(token, 0.0)
        if token in {*prompt, *answer}:
            value = value / penalty if value > 0 else value * penalty
        value -= presence * (token in answer) + frequency * answer.count(token)
        expected.append(value if token in left else -np.inf)
    wish = Sampling(repetition_penalty=penalty, presence_penalty=presence, frequency_penalty=frequency)
    assert applied(values, rules, answer, prompt, wish) == pytest.approx(expected, rel=1e-5, abs=1e-4)
