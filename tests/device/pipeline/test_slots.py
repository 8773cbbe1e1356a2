"""Which rows of other prompts a prompt takes over, and which slots it leaves alone."""

from __future__ import annotations

import pytest

from device.pipeline.scheduler import Scheduler
from device.pipeline.sequences import Request, Sequence, Step
from device.pipeline.slots import Held, Slots
from tests.device.pipeline.test_scheduler import run_all


def prefilled(steps: list[Step], sequence: Sequence) -> int:
    return sum(len(step.tokens) for step in steps if step.prefill and sequence in step.sequences)


def test_a_shared_prefix_is_prefilled_once() -> None:
    system = tuple(range(100, 140))
    scheduler = Scheduler(1, 4, 200, 64)
    first, same, other = (scheduler.submit(Request((*system, *tail), max_tokens=2)) for tail in ((1, 2, 3), (4,), (5, 6)))
    steps = run_all(scheduler)
    assert [prefilled(steps, s) for s in (first, same, other)] == [43, 1, 2]
    assert [s.reused for s in (first, same, other)] == [0, 40, 40]
    again = scheduler.submit(Request((*system, 1, 2, 3), max_tokens=2))
    assert prefilled(run_all(scheduler), again) == 43 - 42  # its last row is wanted


def test_prompts_asked_by_turns_do_not_drive_each_other_out() -> None:
    scheduler = Scheduler(1, 2, 200, 64)
    for turn in range(4):
        for base in (1000, 2000):
            sequence = scheduler.submit(Request(tuple(range(base, base + 30)), max_tokens=2))
            assert prefilled(run_all(scheduler), sequence) == (2 if turn else 30)


def test_who_served_longest_ago_makes_room() -> None:
    scheduler = Scheduler(1, 2, 200, 64)

    def ask(base: int) -> int:
        sequence = scheduler.submit(Request(tuple(range(base, base + 30)), max_tokens=2))
        return prefilled(run_all(scheduler), sequence)

    assert [ask(base) for base in (1000, 2000, 1000, 3000, 1000, 2000)] == [30, 30, 2, 30, 2, 30]


def test_a_turn_that_may_be_inexact_takes_over_the_answer_before_it() -> None:
    scheduler = Scheduler(1, 2, 200, 64)
    opening = tuple(range(100, 120))
    first = scheduler.submit(Request(opening, max_tokens=11))
    run_all(scheduler)
    prompt = (*opening, *first.answer, 1, 2, 3)
    asked = scheduler.submit(Request(prompt, max_tokens=2))
    assert prefilled(run_all(scheduler), asked) == len(prompt) - 20
    scheduler = Scheduler(1, 2, 200, 64)
    scheduler.submit(Request(opening, max_tokens=11))
    run_all(scheduler)
    hurried = scheduler.submit(Request(prompt, max_tokens=2, reuse_decoded=True))
    assert prefilled(run_all(scheduler), hurried) == len(prompt) - 30  # the answer's last token was never fed
    exact = scheduler.submit(Request((*prompt, 4, 5), max_tokens=2))
    assert prefilled(run_all(scheduler), exact) == len(prompt) + 2 - 20  # what was prefilled behind decoded rows is not a cold run's


@pytest.mark.parametrize("reuse_decoded", [False, True])
def test_chats_behind_one_opening_do_not_drive_each_other_out(reuse_decoded: bool) -> None:
    scheduler = Scheduler(1, 4, 400, 64)
    system = tuple(range(100, 124))
    chats: list[tuple[int, ...]] = [(1, 2), (3, 4)]
    before = [0, 0]
    for turn in range(4):
        for chat in (0, 1):
            user = tuple(range(1000 * chat + 200 * turn + 200, 1000 * chat + 200 * turn + 230))
            prompt = (*system, *chats[chat], *user) if not turn else (*chats[chat], *user)
            sequence = scheduler.submit(Request(prompt, max_tokens=9, reuse_decoded=reuse_decoded))
            new = prefilled(run_all(scheduler), sequence)
            if turn:
                assert new <= len(prompt) - before[chat] + 1
            chats[chat] = (*prompt, *sequence.answer)
            before[chat] = len(chats[chat]) - 1 if reuse_decoded else len(prompt)


def test_a_prefix_that_sees_all_of_itself_takes_over_no_decoded_rows() -> None:
    prompt = tuple(range(40))
    assert Held(prompt, 20).shared(Request(prompt, prefix=30, reuse_decoded=True)) == 0
    assert Held(prompt, 30).shared(Request(prompt, prefix=30, reuse_decoded=True)) == 30


def test_of_two_slots_that_hold_as_much_the_exacter_is_taken() -> None:
    slots = Slots(3)
    slots.held = [Held(tuple(range(40)), 20), Held(tuple(range(40)), 40), Held(tuple(range(40)), 30)]
    assert slots.slot_for(Request(tuple(range(41)), reuse_decoded=True)) == 1


@pytest.mark.parametrize(("prompt", "made", "rows"), [(40, 40, 38), (41, 40, 40), (40, 17, 16), (40, 15, 0), (16, 40, 0), (17, 40, 16)])
def test_shared_rows_are_even_and_leave_one(prompt: int, made: int, rows: int) -> None:
    assert Held(tuple(range(made)), made).shared(Request(tuple(range(prompt)))) == rows


def test_shared_rows_end_where_prompts_part() -> None:
    asked = Request(tuple(range(60)))
    held = [Held((*range(same), *range(100, 150)), same + 50) for same in (15, 16, 17, 18, 41, 60)]
    assert [each.shared(asked) for each in held] == [0, 16, 16, 18, 40, 58]
