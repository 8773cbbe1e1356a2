"""The scheduler: driven at random against a plain model of a stage's slots, and rule by rule."""

from __future__ import annotations

import itertools
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from device.pipeline.scheduler import (
    PREFILL_ROWS_BESIDE_DECODE,
    WAITING_SEQUENCES,
    Ending,
    Request,
    Scheduler,
    Sequence,
    Step,
    Told,
)
from protos.errors import Busy

STOP = 7
CONTEXT = 24


def next_token(number: int, position: int) -> int:
    """What the "model" says: a function of the sequence and the position alone."""
    return (number * 31 + position * 17 + number * position) % 50


def expected_answer(sequence: Sequence) -> tuple[list[int], Ending]:
    """Tokens (forced ones included) and the end of a sequence that is left alone."""
    request, answer = sequence.request, list[int]()
    while True:
        position = len(request.prompt_ids) + len(answer)
        index = len(answer)
        token = request.forced_ids[index] if index < len(request.forced_ids) else next_token(sequence.number, position)
        if token in request.stop_token_ids:
            return answer, Ending.STOP
        answer.append(token)
        if len(answer) >= request.max_tokens or position >= CONTEXT:
            return answer, Ending.LENGTH


class StageModel:
    """What a stage would hold if it did as the steps say: for each slot the sequence and its tokens."""

    def __init__(self, groups: int, slots: int) -> None:
        self.slots: list[list[tuple[Sequence, list[int]] | None]] = [[None] * slots for _ in range(groups)]

    def apply(self, step: Step) -> None:
        group = self.slots[step.group]
        for slot, sequence in step.released:
            held = group[slot]
            assert held is not None
            assert held[0] is sequence
            group[slot] = None
        for source, target in step.moved:
            assert group[source] is not None
            assert group[target] is None
            group[target], group[source] = group[source], None
        for slot, sequence in step.opened:
            assert group[slot] is None
            group[slot] = (sequence, [])
        for index, sequence in enumerate(step.sequences):
            held = group[sequence.slot]
            assert held is not None
            assert held[0] is sequence
            assert len(held[1]) == step.positions[0 if step.prefill else index]
            held[1].extend(step.tokens if step.prefill else [step.tokens[index]])

    @property
    def held(self) -> list[Sequence]:
        return [item[0] for group in self.slots for item in group if item]


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(groups=st.integers(1, 4), slots=st.sampled_from([2, 4]), chunk=st.sampled_from([2, 4, 8]))
    def begin(self, groups: int, slots: int, chunk: int) -> None:
        self.scheduler = Scheduler(groups, slots, CONTEXT, chunk)
        self.stage = StageModel(groups, slots)
        self.chunk = chunk
        self.flying: dict[int, Step] = {}
        self.live: list[Sequence] = []
        self.told: dict[Sequence, list[Told]] = {}
        self.gone: list[Sequence] = []  # in the order a client hears of it
        self.admitted: list[int] = []
        self.passed_over: dict[Sequence, int] = {}
        self.cancelled: set[Sequence] = set()

    @rule(
        prompt=st.integers(1, CONTEXT - 6),
        forced=st.integers(0, 4),
        more=st.integers(1, 12),
        stops=st.booleans(),
    )
    def submit(self, prompt: int, forced: int, more: int, stops: bool) -> None:
        request = Request(
            tuple(range(100, 100 + prompt)),
            tuple(range(60, 60 + forced)),
            max_tokens=forced + more,
            stop_token_ids=frozenset({STOP}) if stops else frozenset(),
        )
        sequence = self.scheduler.submit(request)
        self.live.append(sequence)
        self.told[sequence] = []

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        if sequence.ending is None:
            self.cancelled.add(sequence)
        self.scheduler.cancel(sequence)
        self._take_unseen()

    @precondition(lambda self: self.live)
    @rule(data=st.data(), paused=st.booleans())
    def pause(self, data: st.DataObject, paused: bool) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        sequence.paused = paused
        self.passed_over.pop(sequence, None)

    @rule()
    def launch(self) -> None:
        self._launch()

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        self._complete(data.draw(st.sampled_from(sorted(self.flying))))

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        releasing = {sequence for step in self.flying.values() for _, sequence in step.released}
        opened = self.scheduler.open_sequences
        assert len(set(opened)) == len(opened)
        assert set(opened) | releasing == set(self.live)
        slots = [(sequence.group, sequence.slot) for sequence in opened if sequence.ending is None and sequence.slot >= 0]
        assert len(set(slots)) == len(slots)

    def teardown(self) -> None:
        """Left alone, everything comes to its end; each sequence got exactly its tokens."""
        if not hasattr(self, "scheduler"):
            return
        for sequence in self.live:
            sequence.paused = False
        for _ in range(10_000):
            while self._launch():
                pass
            if not self.flying:
                break
            self._complete(min(self.flying))
        assert self.scheduler.open_sequences == []
        assert self.live == []
        assert self.stage.held == []
        assert len(self.gone) == len(self.told) == len(set(self.gone))
        for sequence, told in self.told.items():
            answer, ending = expected_answer(sequence)
            forced = len(sequence.request.forced_ids)
            assert [item.index for item in told] == list(range(forced, forced + len(told)))
            assert (sequence.ending is Ending.CANCELLED) == (sequence in self.cancelled)
            if sequence in self.cancelled:
                assert [item.token for item in told] == answer[forced : forced + len(told)]
            else:
                assert (sequence.answer, sequence.ending) == (answer, ending)
                assert [item.token for item in told] == answer[forced:]

    def _launch(self) -> bool:
        step = self.scheduler.next_step()
        if step is None:
            for group in set(range(len(self.stage.slots))) - set(self.flying):
                standing = [s for s in self.scheduler.open_sequences if s.group == group]
                assert all(sequence.paused for sequence in standing)
            return False
        assert step.group not in self.flying
        self.stage.apply(step)
        self.flying[step.group] = step
        held = [item is not None for item in self.stage.slots[step.group]]
        assert held == sorted(held, reverse=True)  # no hole is left
        self.admitted += [sequence.number for _, sequence in step.opened]
        slots = [sequence.slot for sequence in step.sequences]
        assert slots == sorted(set(slots))
        assert not any(sequence.paused or sequence.ending for sequence in step.sequences)
        if step.prefill:
            (sequence,) = step.sequences
            last = sequence.length + len(step.tokens) == len(sequence.request.prompt_ids)
            assert 0 < len(step.tokens) <= self.chunk
            assert last or len(step.tokens) % 2 == 0
            assert step.wanted == ((sequence,) if last and not sequence.request.forced_ids else ())
            older = [s for s in self._running(step.group) if s.prefilling and s.number < sequence.number]
            assert not older
        else:
            for sequence, token, position in zip(step.sequences, step.tokens, step.positions, strict=True):
                assert token == sequence.answer[-1]
                assert position == len(sequence.request.prompt_ids) + len(sequence.answer) - 1 < CONTEXT
        for sequence in self._running(step.group):
            if not sequence.prefilling:
                missed = 0 if sequence in step.sequences else self.passed_over.get(sequence, 0) + 1
                assert missed < 2
                self.passed_over[sequence] = missed
        return True

    def _complete(self, group: int) -> None:
        step = self.flying.pop(group)
        sampled = {s: next_token(s.number, len(s.request.prompt_ids) + len(s.answer)) for s in step.wanted}
        for item in self.scheduler.complete(step, sampled):
            self.told[item.sequence].append(item)
        for _, sequence in step.released:
            self._forget(sequence)
        self._take_unseen()

    def _take_unseen(self) -> None:
        for sequence in self.scheduler.take_unseen():
            assert sequence.ending is Ending.CANCELLED
            assert sequence not in self.stage.held
            self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        assert sequence.ending is not None
        self.live.remove(sequence)
        self.gone.append(sequence)

    def _running(self, group: int) -> list[Sequence]:
        held = [item[0] for item in self.stage.slots[group] if item]
        return [sequence for sequence in held if sequence.ending is None and not sequence.paused]


SchedulerMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, derandomize=True, database=None)
TestScheduler = SchedulerMachine.TestCase


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
        scheduler.complete(done, {s: next_token(s.number, len(s.request.prompt_ids) + len(s.answer)) for s in done.wanted})


def request(prompt: int = 4, tokens: int = 3) -> Request:
    return Request(tuple(range(prompt)), max_tokens=tokens)


def test_who_came_first_is_admitted_first() -> None:
    scheduler = Scheduler(2, 2, CONTEXT, 8)
    sequences = [scheduler.submit(request(tokens=1 + number % 4)) for number in range(12)]
    opened = [sequence for step in run_all(scheduler) for _, sequence in step.opened]
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
    beside = PREFILL_ROWS_BESIDE_DECODE
    assert kinds[:6] == [(True, 4), (False, 1), (True, beside), (False, 1), (True, beside), (False, 1)]
    assert sum(count for prefill, count in kinds if prefill) == 4 + 900
    assert all(before[0] + after[0] < 2 for before, after in itertools.pairwise(kinds))


def test_a_prompt_alone_takes_whole_chunks() -> None:
    scheduler = Scheduler(1, 2, 2000, 512)
    scheduler.submit(request(prompt=900, tokens=1))
    assert [len(step.tokens) for step in run_all(scheduler) if step.prefill] == [512, 388]


def test_a_hole_is_closed_by_the_highest_slot() -> None:
    scheduler = Scheduler(1, 4, CONTEXT, 8)
    short, *_ = [scheduler.submit(request(prompt=2, tokens=tokens)) for tokens in (2, 9, 9, 9)]
    steps = run_all(scheduler)
    closing = next(step for step in steps if step.moved)
    assert closing.released == ((0, short),)
    assert closing.moved == ((3, 0),)


def test_a_release_is_told_even_when_nothing_else_runs() -> None:
    scheduler = Scheduler(1, 2, CONTEXT, 8)
    sequence = scheduler.submit(request(tokens=1))
    first, last = run_all(scheduler)
    assert first.wanted == (sequence,)
    assert (last.sequences, last.tokens, last.released) == ((), (), ((0, sequence),))
