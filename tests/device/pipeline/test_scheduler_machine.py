"""The scheduler against a model of its stages: whatever clients do, in any order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from device.pipeline.drafter import Draft
from device.pipeline.scheduler import Scheduler
from device.pipeline.sequences import Ending, Request, SampledToken, Sequence, Step
from device.pipeline.speculation import Speculation
from protos.decoding import MOST_RUN_ROWS
from protos.even import even_up
from tests.device.pipeline.test_scheduler import CONTEXT, STOP, next_token


def expected_answer(sequence: Sequence, context: int) -> tuple[list[int], Ending]:
    """Tokens (forced ones included) and the end of a sequence that is left alone."""
    request, answer = sequence.request, list[int]()
    while True:
        position = len(request.prompt_ids) + len(answer)
        index = len(answer)
        token = request.forced_ids[index] if index < len(request.forced_ids) else next_token(sequence.number, position)
        if token in request.stop_token_ids:
            return answer, Ending.STOP
        answer.append(token)
        if len(answer) >= request.max_tokens or position >= context:
            return answer, Ending.LENGTH


class Guesses:
    """Knows what comes, and errs now and then."""

    def __init__(self, sequence: Sequence, known: int) -> None:
        self._number = sequence.number
        self._known = known

    def extend(self, tokens: Iterable[int]) -> None:
        self._known += len(list(tokens))

    def propose(self) -> Draft:
        places = range(self._known, self._known + self._known % 7)
        return Draft(tuple(next_token(self._number, place) + (place % 5 == 4) for place in places), 8)


@dataclass
class Kept:
    """What a slot would hold if a stage did as the steps say. The first `exact` tokens are a cold run's: prefilled behind such ones."""

    owner: Sequence | None = None
    tokens: list[int] = field(default_factory=list)
    exact: int = 0

    def usable(self, sequence: Sequence) -> int:
        return len(self.tokens) if sequence.request.reuse_decoded else self.exact


class StageModel:
    def __init__(self, groups: int, slots: int, *, by_runs: bool) -> None:
        self.by_runs = by_runs
        self.slots = [[Kept() for _ in range(slots)] for _ in range(groups)]

    def apply(self, step: Step) -> None:
        group = self.slots[step.group]
        for slot, sequence in step.released:
            assert group[slot].owner is sequence
            group[slot].owner = None
        for source, target in step.swapped:
            assert group[target].owner is None
            group[target], group[source] = group[source], group[target]
        for slot, sequence, kept in step.opened:
            held, forced, most = group[slot], len(sequence.request.forced_ids), sequence.request.most_replayed
            assert sequence.forced_prefilled == (forced if most is not None and forced - 1 > most else 0)
            assert held.owner is None
            assert kept <= held.usable(sequence)
            group[slot] = Kept(sequence, held.tokens[:kept], min(kept, held.exact))
        for source, target, rows in step.copied:
            (owner, held) = (group[target].owner, group[source])
            assert owner is not None
            assert rows <= held.usable(owner)
            group[target] = Kept(owner, held.tokens[:rows], min(rows, held.exact))
        for index, sequence in enumerate(step.sequences):
            held = group[sequence.slot]
            assert held.owner is sequence
            if step.counts:
                self._run(sequence, held, step.positions[index], step.fed[sequence])
                continue
            assert len(held.tokens) == step.positions[0 if step.prefill else index]
            all_exact = held.exact == len(held.tokens)
            held.tokens.extend(step.tokens if step.prefill else [step.tokens[index]])
            if step.prefill and all_exact:
                held.exact = len(held.tokens)
            prompt = sequence.request.prompt_ids
            assert tuple(held.tokens[: len(prompt)]) == prompt[: len(held.tokens)]
            assert sequence.request.reuse_decoded or held.exact == min(len(held.tokens), len(sequence.input_ids))

    def _run(self, sequence: Sequence, held: Kept, start: int, fed: tuple[int, ...]) -> None:
        """What it holds behind `start` were drafts."""
        assert start <= len(held.tokens)
        assert 1 <= len(fed) <= MOST_RUN_ROWS
        assert start + even_up(len(fed)) <= CONTEXT
        del held.tokens[start:]
        known = len(sequence.request.prompt_ids) + len(sequence.answer)
        ahead = [next_token(sequence.number, place) for place in range(known, start)]  # of rounds that are not told yet
        assert held.tokens == [*sequence.request.prompt_ids, *sequence.answer, *ahead][:start]
        held.tokens.extend(fed)
        held.exact = len(held.tokens)

    @property
    def owners(self) -> list[Sequence]:
        return [held.owner for group in self.slots for held in group if held.owner]


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(groups=st.integers(1, 4), slots=st.sampled_from([2, 4]), chunk=st.sampled_from([2, 4, 8]), by_runs=st.booleans())
    def begin(self, groups: int, slots: int, chunk: int, by_runs: bool) -> None:
        self.scheduler = Scheduler(groups, slots, CONTEXT, chunk, "pairs" if by_runs else "rows")
        self.by_runs = by_runs
        self.stage = StageModel(groups, slots, by_runs=by_runs)
        self.chunk = chunk
        self.flying: dict[int, Step] = {}
        self.rounds: dict[int, int] = {}
        self.live: list[Sequence] = []
        self.told: dict[Sequence, list[SampledToken]] = {}
        self.gone: list[Sequence] = []  # in the order a client hears of it
        self.admitted: list[int] = []
        self.passed_over: dict[Sequence, int] = {}
        self.left_out: set[Sequence] = set()  # of a round that followed, since when no step was launched with them
        self.cancelled: set[Sequence] = set()

    @rule(
        prompt=st.sampled_from([1, 2, 5, 17, 18, 23, 34, 40, 58]),
        differs_at=st.sampled_from([0, 10, 16, 20, 33, 99]),
        forced=st.integers(0, 4),
        more=st.integers(1, 12),
        stops=st.booleans(),
        reuse_decoded=st.booleans(),
        turn=st.none() | st.integers(0, 3),
        most_replayed=st.none() | st.integers(0, 3),
    )
    def submit(
        self,
        prompt: int,
        differs_at: int,
        forced: int,
        more: int,
        stops: bool,
        reuse_decoded: bool,
        turn: int | None,
        most_replayed: int | None,
    ) -> None:
        """`turn`: the prompt goes on behind an earlier answer."""
        tokens = tuple(token if token - 100 < differs_at else token + 1000 for token in range(100, 100 + prompt))
        earlier = [sequence for sequence in self.told if sequence.ending]
        if turn is not None and turn < len(earlier):
            before = earlier[-1 - turn]
            tokens = ((*before.request.prompt_ids, *before.answer, *tokens))[: CONTEXT - 6]
        request = Request(
            tokens,
            tuple(range(60, 60 + forced)),
            max_tokens=forced + more,
            stop_token_ids=frozenset({STOP}) if stops else frozenset(),
            reuse_decoded=reuse_decoded,
            most_replayed=most_replayed,
        )
        sequence = self.scheduler.submit(request)
        if self.by_runs and prompt % 2:
            sequence.speculation = Speculation(Guesses(sequence, len(tokens)))
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
        group = data.draw(st.sampled_from(sorted(self.flying)))
        self._complete(group, data.draw(st.integers(1, self.rounds[group])), follow=data.draw(st.booleans()))

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
            group = min(self.flying)
            self._complete(group, self.rounds[group], follow=False)
        assert self.scheduler.open_sequences == []
        assert self.live == []
        assert self.stage.owners == []
        assert len(self.gone) == len(self.told) == len(set(self.gone))
        for sequence, told in self.told.items():
            answer, ending = expected_answer(sequence, CONTEXT - self.by_runs)
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
        self.rounds[step.group] = self.scheduler.rounds(step)
        self.left_out -= {*step.sequences}
        held = [item.owner is not None for item in self.stage.slots[step.group]]
        assert held == sorted(held, reverse=True)  # no hole is left
        self.admitted += [sequence.number for _, sequence, _ in step.opened]
        slots = [sequence.slot for sequence in step.sequences]
        assert slots == sorted(set(slots))
        assert not any(sequence.paused or sequence.ending for sequence in step.sequences)
        if step.prefill:
            (sequence,) = step.sequences
            last = sequence.length + len(step.tokens) == len(sequence.input_ids)
            assert 0 < len(step.tokens) <= self.chunk
            assert last or len(step.tokens) % 2 == 0
            assert step.wanted == ((sequence,) if last and (sequence.forced_prefilled or not sequence.request.forced_ids) else ())
            oldest = min((s for s in self._running(step.group) if s.prefilling), key=lambda s: s.number)
            missed = 0 if sequence is oldest else self.passed_over.get(oldest, 0) + 1
            assert missed < 3  # by turns; a pause or an end in between may cost one
            self.passed_over[oldest] = missed
        else:
            known = [step.fed[sequence][0] for sequence in step.sequences] if step.counts else step.tokens
            for sequence, token, position in zip(step.sequences, known, step.positions, strict=True):
                assert token == sequence.answer[-1]
                assert position == len(sequence.request.prompt_ids) + len(sequence.answer) - 1 < CONTEXT
        for sequence in self._running(step.group):
            if not sequence.prefilling:
                missed = 0 if sequence in step.sequences else self.passed_over.get(sequence, 0) + 1
                assert missed < 2
                self.passed_over[sequence] = missed
        return True

    def _complete(self, group: int, rounds: int, *, follow: bool) -> None:
        """So many rounds ran on end, or fewer because one of them gave a stop token; what was asked meanwhile comes to bear now, or when
        the next round, which `follow` sends on its way where one may, is complete."""
        step = this = self.flying.pop(group)
        follow = follow and self.rounds[group] > rounds
        after: Step | None = None
        known = {sequence: len(sequence.request.prompt_ids) + len(sequence.answer) for sequence in step.wanted}
        results = []
        for ahead in range(rounds):
            sampled = {sequence: self._sampled(this, sequence, known[sequence]) for sequence in step.wanted}
            known = {sequence: known[sequence] + len(tokens) for sequence, tokens in sampled.items()}
            results.append((this, sampled))
            last = ahead + 1 == rounds
            after = None if last and not follow else this.following(sampled)
            if last or after is None:
                break
            self.stage.apply(this := after)
        for done, sampled in results:
            for item in self.scheduler.complete(done, sampled):
                self.told[item.sequence].append(item)
        for _, sequence in step.released:
            self._forget(sequence)
        if after and follow:
            self.stage.apply(after)
            self.scheduler.launched(after)
            self.flying[group] = after
            self.rounds[group] = self.scheduler.rounds(after)
            others = {*self._running(group)} - {*after.sequences}
            assert not others & self.left_out  # at most one round follows before who came meanwhile
            self.left_out |= others
        self._take_unseen()

    def _sampled(self, step: Step, sequence: Sequence, place: int) -> list[int]:
        """As device/pipeline/rounds.py verifies drafts."""
        drafts, tokens = step.fed[sequence][1:] if step.counts else (), list[int]()
        for draft in (*drafts, None):
            tokens.append(next_token(sequence.number, place + len(tokens)))
            if tokens[-1] != draft or tokens[-1] in sequence.request.stop_token_ids:
                break
        if sequence.speculation:
            sequence.speculation.came(tokens, len(drafts))
        return tokens

    def _take_unseen(self) -> None:
        for sequence in self.scheduler.take_unseen():
            assert sequence.ending is Ending.CANCELLED
            assert sequence not in self.stage.owners
            self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        assert sequence.ending is not None
        self.live.remove(sequence)
        self.gone.append(sequence)

    def _running(self, group: int) -> list[Sequence]:
        owners = [item.owner for item in self.stage.slots[group] if item.owner]
        return [sequence for sequence in owners if sequence.ending is None and not sequence.paused]


SchedulerMachine.TestCase.settings = settings(stateful_step_count=40)


TestScheduler = SchedulerMachine.TestCase
