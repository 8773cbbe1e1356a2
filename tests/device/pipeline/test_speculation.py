"""How many drafts a step carries: none that do not pay, and again when they would."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.pipeline.drafter import Draft
from device.pipeline.speculation import FIXED_ROWS, LEAST_FIXED_ROWS, MOST_FIXED_ROWS, Acceptance, Speculation, Steps, worth


@given(probability=st.floats(0.01, 0.99), proposed=st.integers(0, 15), others=st.integers(0, 32))
def test_more_is_drafted_where_more_holds_and_where_a_step_is_dear(probability: float, proposed: int, others: int) -> None:
    drafts = worth(probability, proposed, others)
    assert 0 <= drafts <= proposed
    assert worth(min(0.99, probability + 0.1), proposed, others) >= drafts
    assert worth(probability, proposed, others, fixed_rows=10 * FIXED_ROWS) >= drafts


def test_the_second_row_of_a_pair_costs_nothing() -> None:
    assert worth(0.01, 15, 0) == 1
    assert worth(0.01, 1, 30) == 1
    assert worth(0.99, 0, 0) == 0


class Always:
    """Proposes the same."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft

    def extend(self, tokens: Iterable[int]) -> None:
        """They change nothing."""

    def propose(self) -> Draft:
        return self.draft


def test_drafts_that_do_not_hold_end_and_begin_again_when_they_would() -> None:
    speculation = Speculation(Always(Draft(tuple(range(8)), 8)))

    def step(tokens: list[int]) -> int:
        drafts = speculation.drafts(15, 0, FIXED_ROWS)
        speculation.came(tokens, len(drafts))
        return len(drafts)

    first = step([77])
    assert first > 4
    for _ in range(20):
        last = step([77])
    assert last == 1, "the row beside the known one is computed in any case"
    for _ in range(20):
        last = step([0, 1])
    assert last > 4
    assert (speculation.accepted, speculation.drafted > 60) == (20, True)


def test_what_was_not_fed_is_judged_too() -> None:
    draft = Draft((1, 2, 3), 4)
    acceptance = Acceptance()
    assert acceptance.after(draft, [1]).probability(4) > acceptance.probability(4)
    assert acceptance.after(draft, [5]).probability(4) < acceptance.probability(4)
    assert acceptance.after(draft, [5]).probability(2) == acceptance.probability(2)
    assert acceptance.after(Draft(), [5]) == acceptance


@given(each=st.floats(0.0005, 0.1), fixed=st.integers(5, 59))
def test_what_a_step_costs_is_learned_from_steps(each: float, fixed: int) -> None:
    steps = Steps()
    for rows in (2, 4, 2, 8, 16, 2):
        steps = steps.measured(rows, each * (fixed + rows))
    assert steps.fixed_rows == pytest.approx(fixed, rel=0.01)
    assert Steps().measured(2, 0.1).fixed_rows == FIXED_ROWS
    assert Steps().measured(2, 5.0).measured(16, 5.01).fixed_rows == MOST_FIXED_ROWS
    assert Steps().measured(2, 0.01).measured(16, 5.0).fixed_rows == LEAST_FIXED_ROWS
