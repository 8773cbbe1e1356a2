"""The scheduler: driven at random against a plain model of a stage's slots, and rule by rule."""

from __future__ import annotations

import itertools
from collections import deque

import pytest

from device.pipeline.scheduler import WAITING_SEQUENCES, Scheduler
from device.pipeline.sequences import Request, Step
from protos.errors import Busy
from protos.physics.chunks import LEAST_ALONE_ROWS, LEAST_BESIDE_ROWS

STOP = 7
CONTEXT = 64


def next_token(number: int, position: int) -> int:
    """What the "model" says: a function of the sequence and the position alone."""
    return (number * 31 + position * 17 + number * position) % 50


def run_all(scheduler: Scheduler) -> list[Step]:
    """Every group's step in turn until nothing is open."""
    steps: list[Step] = []
    flying: deque[Step] = deque()
    while True:
        while step := scheduler.next_step():
            flying.append(step)
            steps.append(step)
        if not flying:
            return steps
        done = flying.popleft()
        scheduler.complete(done, {s: [next_token(s.number, len(s.request.prompt_ids) + len(s.answer))] for s in done.wanted})


def request(prompt: int = 4, tokens: int = 3) -> Request:
    return Request(tuple(range(prompt)), max_tokens=tokens)


def test_who_came_first_is_admitted_first() -> None:
    scheduler = Scheduler(2, 2, CONTEXT, 8)
    sequences = [scheduler.submit(request(tokens=1 + number % 4)) for number in range(12)]
    opened = [sequence for step in run_all(scheduler) for _, sequence, _ in step.opened]
    places = [opened.index(sequence) for sequence in sequences]
    # Two groups open side by side, so neighbours may change places between groups, never within one.
    for group in (0, 1):
        numbers = [sequence.number for sequence in opened if sequence.group == group]
        assert numbers == sorted(numbers)
    assert all(abs(place - number) <= 3 for number, place in enumerate(places))


def test_busy_when_the_queue_is_full_and_only_then() -> None:
    scheduler = Scheduler(1, 2, CONTEXT, 8)
    sequences = [scheduler.submit(request()) for _ in range(WAITING_SEQUENCES + 2)]
    with pytest.raises(Busy) as refused:
        scheduler.submit(request())
    assert refused.value.retry_after_seconds > 0
    scheduler.cancel(sequences[-1])
    scheduler.submit(request())
    with pytest.raises(Busy):
        scheduler.submit(request())


def test_groups_are_filled_evenly() -> None:
    scheduler = Scheduler(3, 4, CONTEXT, 8)
    groups = [scheduler.submit(request()).group for _ in range(12)]
    assert [groups[index : index + 3] for index in range(0, 12, 3)] == [[0, 1, 2]] * 4


def test_prefill_and_decode_take_turns() -> None:
    scheduler = Scheduler(1, 2, 2000, 512)
    scheduler.submit(request(tokens=60))
    scheduler.submit(request(prompt=900, tokens=2))
    kinds = [(step.prefill, len(step.tokens)) for step in run_all(scheduler)]
    beside = 2 * LEAST_BESIDE_ROWS
    assert kinds[:6] == [(True, 4), (False, 1), (True, beside), (False, 1), (True, beside), (False, 1)]
    assert sum(count for prefill, count in kinds if prefill) == 4 + 900
    assert all(before[0] + after[0] < 2 for before, after in itertools.pairwise(kinds))


def test_a_prompt_alone_takes_long_chunks() -> None:
    scheduler = Scheduler(1, 2, 2000, 512)
    scheduler.submit(request(prompt=150, tokens=1))
    alone = 2 * LEAST_ALONE_ROWS
    assert [len(step.tokens) for step in run_all(scheduler) if step.prefill] == [alone, alone, 150 - 2 * alone]


@pytest.mark.parametrize("chunks_before", [1, 2, 3])
def test_a_short_prompt_waits_for_one_chunk_of_a_long_one(chunks_before: int) -> None:
    scheduler = Scheduler(1, 2, 2000, 512)
    scheduler.submit(request(prompt=900, tokens=1))
    for number in range(chunks_before):
        step = scheduler.next_step()
        assert step
        if number == chunks_before - 1:  # it comes while this one runs
            short = scheduler.submit(Request((7, 8, 9), max_tokens=1))
        scheduler.complete(step, {})
    order = [step.sequences[0] for step in run_all(scheduler) if step.prefill]
    assert order.index(short) == 0


def test_a_hole_is_closed_by_the_highest_slot_and_what_it_held_is_kept() -> None:
    scheduler = Scheduler(1, 4, CONTEXT, 8)
    short, *_ = [scheduler.submit(request(prompt=2, tokens=tokens)) for tokens in (2, 9, 9, 9)]
    steps = run_all(scheduler)
    closing = next(step for step in steps if step.swapped)
    assert closing.released == ((0, short),)
    assert closing.swapped == ((3, 0),)


def test_a_release_is_told_even_when_nothing_else_runs() -> None:
    scheduler = Scheduler(1, 2, CONTEXT, 8)
    sequence = scheduler.submit(request(tokens=1))
    first, last = run_all(scheduler)
    assert first.wanted == (sequence,)
    assert (last.sequences, last.tokens, last.released) == ((), (), ((0, sequence),))


def test_rounds_follow_each_other_only_where_nothing_else_is_to_do() -> None:
    scheduler = Scheduler(1, 4, CONTEXT, 64)
    scheduler.submit(Request((1, 2), max_tokens=9))
    prefill = scheduler.next_step()
    assert prefill is not None
    assert scheduler.rounds(prefill) == 1
    (sequence,) = prefill.sequences
    scheduler.complete(prefill, {sequence: [7]})
    decode = scheduler.next_step()
    assert decode is not None
    assert scheduler.rounds(decode) == 8  # one token of nine was the prefill's
    assert (after := decode.following({sequence: [5]})) is not None
    assert (after.tokens, after.positions) == ((5,), (3,))
    other = scheduler.submit(Request((3, 4)))
    assert scheduler.rounds(decode) == 1  # somebody waits for a prefill
    scheduler.cancel(other)
    assert scheduler.rounds(decode) == 8
    sequence.paused = True
    assert scheduler.rounds(decode) == 1
    sequence.paused = False
    scheduler.cancel(sequence)
    assert scheduler.rounds(decode) == 1


def test_who_was_paused_is_not_left_behind_by_rounds_that_follow() -> None:
    scheduler = Scheduler(1, 4, CONTEXT, 64)
    one, other = (scheduler.submit(Request((1, 2), max_tokens=9)) for _ in range(2))
    while (step := scheduler.next_step()) and other.prefilling:
        scheduler.complete(step, {sequence: [7] for sequence in step.wanted})
    assert step is not None
    scheduler.complete(step, {sequence: [7] for sequence in step.wanted})
    other.paused = True
    decode = scheduler.next_step()
    assert decode is not None
    assert decode.sequences == (one,)
    assert scheduler.rounds(decode) > 1
    other.paused = False
    assert scheduler.rounds(decode) == 1
