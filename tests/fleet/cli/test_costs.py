from __future__ import annotations

import dataclasses

import pytest

from fleet.cli.costs import combined, summary
from tests.support.fake_coordinator import COST, RESULT


def test_costs_of_several_answers_add_up_by_device() -> None:
    other = dataclasses.replace(COST, device_id="other", joules=None, joules_per_token=None, source="unmetered")
    both = dataclasses.replace(RESULT, devices=(COST, other))
    one, two = combined([both, RESULT])
    assert (one.busy_seconds, one.modelled_busy_seconds, one.joules) == (1.0, 0.5, 3.0)
    assert one.joules_per_token == pytest.approx(3.0 / 6)
    assert (two.device_id, two.joules, two.joules_per_token) == ("other", None, None)


def test_what_was_unmetered_once_is_unmetered_in_sum() -> None:
    unmetered = dataclasses.replace(RESULT, devices=(dataclasses.replace(COST, joules=None),))
    assert combined([RESULT, unmetered])[0].joules is None
    assert combined([unmetered, RESULT])[0].joules is None


def test_the_summary_gives_wall_and_modelled_figures() -> None:
    assert summary(RESULT) == "3 tokens, first after 0.125 s, 16.0 tokens/s (modelled: first after 0.100 s, 20.0 tokens/s)"
    real = dataclasses.replace(RESULT, modelled_ttft_seconds=None, tpot_seconds=None, completion_tokens=1, finish_reason="length")
    assert summary(real) == "1 token, first after 0.125 s; stopped at the token limit"
