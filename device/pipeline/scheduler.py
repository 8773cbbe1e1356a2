"""Which rows run next: continuous batching with chunked prefill over slot groups, one step of a group in flight.

Decides only; never touches a tensor, a clock or a queue of messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items
from dataclasses import replace

from device.pipeline.drafter import Drafter, SuffixMatches
from device.pipeline.forced import ForcedText
from device.pipeline.kept import KeptRows
from device.pipeline.sequences import Ending, Request, Runs, SampledToken, Sequence, Step, step_of_runs
from device.pipeline.slots import Resumable, Slots
from device.pipeline.speculation import Speculation, Steps
from protos.decoding import DecodeMode
from protos.errors import Busy
from protos.physics.chunks import ChunkSizes

WAITING_SEQUENCES = 256


class Scheduler:
    """State of all sequences of one pipeline at its head."""

    def __init__(self, groups: int, slots_per_group: int, context: int, prefill_chunk: int, decode: DecodeMode = "rows") -> None:
        self._by_runs = decode == "pairs"
        self._groups = [Slots(slots_per_group, decoded_exact=self._by_runs) for _ in range(groups)]
        # A run has a second row behind its first: no sequence's last row is at the last position.
        self._context = context - self._by_runs
        self._most_rows = max(prefill_chunk, slots_per_group)  # that a message has room for
        self.steps = Steps()
        self.chunks = ChunkSizes(prefill_chunk)
        self._waiting: deque[Sequence] = deque()
        self._turn = 0
        self._numbers = 0
        self._unseen: list[Sequence] = []

    def submit(self, request: Request) -> Sequence:
        """Raises Busy when the queue is full."""
        if len(self._waiting) >= WAITING_SEQUENCES:
            raise Busy(f"{len(self._waiting)} requests are waiting already", retry_after_seconds=1.0)
        self._numbers += 1
        if self._by_runs:
            request = replace(request, most_replayed=0)  # what is prefilled is what was decoded
        sequence = Sequence(self._numbers, request)
        self._waiting.append(sequence)
        self._admit()
        return sequence

    def keep(self, kept: Iterable[KeptRows]) -> None:
        """Before the first step of a ring: requests with these keys go on behind their rows. Whoever was given a slot is given one anew."""
        seated = [sequence for group in self._groups for sequence in group.opening]
        self._waiting.extendleft(sorted(seated, key=lambda sequence: -sequence.number))
        for group in self._groups:
            group.seat_nobody()
        for one in kept:
            self._groups[one.group].resumable[one.slot] = Resumable(one.key, one.rows)
        self._admit()

    def cancel(self, sequence: Sequence) -> None:
        """Ends it now, or when its step in flight is back; a sequence that waits ends without having run."""
        if sequence.ending is None:
            sequence.cancelled = True
            if not sequence.in_flight:
                self._end(sequence, Ending.CANCELLED)

    def take_unseen(self) -> list[Sequence]:
        """Those that ended before any stage heard of them, so no release will tell."""
        taken, self._unseen = self._unseen, []
        return taken

    @property
    def open_sequences(self) -> list[Sequence]:
        """Those that wait, run, or have ended without their release being on its way."""
        held = [slot for group in self._groups for slot in group.slots if slot]
        releasing = [sequence for group in self._groups for _, sequence in group.releasing]
        return [*self._waiting, *held, *releasing, *self._unseen]

    def next_step(self) -> Step | None:
        """The next microbatch to launch, or None while nothing can. Its group is in flight until `complete`."""
        for offset in range(len(self._groups)):
            index = (self._turn + offset) % len(self._groups)
            group = self._groups[index]
            if group.in_flight:
                continue
            step = self._step_of(index, group)
            if step is not None:
                self._turn = index + 1
                self.launched(step)
                return step
        return None

    def rounds(self, step: Step) -> int:
        """How often a decode step may be followed by the next of the same sequences before anything else must be decided in its group,
        this one counted: until the first of them has all its tokens, 1 when there is more to do than to decode them."""
        group = self._groups[step.group]
        same = step.sequences == tuple(sequence for sequence in group.slots if sequence and not sequence.waits)
        if step.prefill or not same or step.wanted != step.sequences or group.releasing:
            return 1
        if any(s.cancelled or len(s.answer) == len(s.request.forced_ids) for s in step.sequences):
            return 1  # an end, or a first token, is told at once
        return min((min(s.request.max_tokens - len(s.answer), self._context - s.length) for s in step.sequences), default=1)

    def launched(self, step: Step) -> None:
        """A step is on its way, be it `next_step`'s or one that follows (see Step.following): its group is in flight until `complete`."""
        self._groups[step.group].in_flight = True
        for sequence in step.sequences:
            sequence.in_flight = True

    def complete(self, step: Step, sampled: Mapping[Sequence, Items[int]]) -> list[SampledToken]:
        """Take a step's result: `sampled` has a token for each of `step.wanted`, and further ones where drafts held. What ends is released
        with its group's next step.

        Of several rounds that ran on end, the results are taken one by one; who was cancelled meanwhile ends with the first.
        """
        group = self._groups[step.group]
        group.in_flight = False
        told = []
        if step.prefill:
            (sequence,) = step.sequences
            sequence.length += len(step.tokens)
            group.held[sequence.slot] = group.held[sequence.slot].prefilled(sequence.input_ids[: sequence.length])
        for sequence in step.sequences:
            sequence.in_flight = False
            if sequence.ending:
                continue
            if not step.prefill:
                sequence.length += max(1, len(sampled.get(sequence, ())))
            if sequence.cancelled:
                self._end(sequence, Ending.CANCELLED)
            elif sequence.length >= len(sequence.input_ids):
                told += self._append(sequence, sampled)
        self._admit()
        return told

    def _append(self, sequence: Sequence, sampled: Mapping[Sequence, Items[int]]) -> list[SampledToken]:
        request, told = sequence.request, []
        if not request.max_tokens:  # the prompt was to be read, and no more
            self._end(sequence, Ending.LENGTH)
            return []
        forced = sequence.next_is_forced
        for token in [request.forced_ids[len(sequence.answer)]] if forced else sampled[sequence]:
            if token in request.stop_token_ids:
                self._end(sequence, Ending.STOP)
                break
            if not forced:
                told.append(SampledToken(sequence, len(sequence.answer), token))
            sequence.answer.append(token)
            if len(sequence.answer) >= request.max_tokens:
                self._end(sequence, Ending.LENGTH)
                break
        if sequence.ending is None and sequence.length >= self._context:
            self._end(sequence, Ending.LENGTH)
        return told

    def _end(self, sequence: Sequence, ending: Ending) -> None:
        sequence.ending = ending
        if sequence.slot < 0:
            self._waiting.remove(sequence)
            self._unseen.append(sequence)
            return
        group = self._groups[sequence.group]
        group.slots[sequence.slot] = None
        group.used_at[sequence.slot] = self._numbers
        if sequence in group.opening:
            group.opening.remove(sequence)
            self._unseen.append(sequence)
        else:
            group.close(sequence)
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            index, group = self._group_for(self._waiting[0].request)
            if group.occupied == len(group.slots):
                return
            sequence = self._waiting.popleft()
            sequence.group, sequence.slot = index, group.slot_for(sequence.request)
            group.slots[sequence.slot] = sequence
            group.opening.append(sequence)

    def _group_for(self, request: Request) -> tuple[int, Slots]:
        """Where rows of an attempt before are, else the one with the fewest sequences."""
        groups = list(enumerate(self._groups))
        resumed = (pair for pair in groups if request.key and pair[1].resumed(request) is not None)
        return next(resumed, None) or min(groups, key=lambda pair: pair[1].occupied)

    def _step_of(self, index: int, group: Slots) -> Step | None:
        ready = [sequence for sequence in group.slots if sequence and not sequence.waits]
        if not (ready or group.releasing):
            return None
        released, group.releasing = tuple(group.releasing), []
        swapped, opened = group.close_holes(), group.open()
        prefilling = [sequence for sequence in ready if sequence.prefilling]
        decoding = [sequence for sequence in ready if not sequence.prefilling]
        if prefilling and not (decoding and group.prefilled_last):
            group.prefilled_last = True
            first = group.next_prompt(prefilling)
            copied = group.copy_prefix(first)
            rows = self.chunks.rows(others_prefill=len(prefilling) > 1 or bool(self._waiting), others_decode=self._anybody_decodes())
            # A prefix that sees all of itself cannot be cut: whoever decodes waits for it, beyond the budget of a chunk.
            stop = first.request.prefix or first.length + rows
            tokens = first.input_ids[first.length : stop]
            last = first.length + len(tokens) == len(first.input_ids)
            wanted = (first,) if last and first.request.max_tokens and not first.next_is_forced else ()
            return Step(index, True, (first,), tokens, (first.length,), wanted, released, swapped, opened, copied)
        group.prefilled_last = False
        sequences = tuple(sorted(decoding, key=lambda sequence: sequence.slot))
        if self._by_runs:
            return self._step_of_runs(index, sequences, released, swapped, opened)
        return Step(
            index,
            False,
            sequences,
            tokens=tuple(s.next_row for s in sequences),
            positions=tuple(s.length for s in sequences),
            wanted=tuple(s for s in sequences if not (s.reading or s.next_is_forced)),
            released=released,
            swapped=swapped,
            opened=opened,
            copied=(),
        )

    def _step_of_runs(
        self,
        group: int,
        sequences: tuple[Sequence, ...],
        released: tuple[tuple[int, Sequence], ...],
        swapped: tuple[tuple[int, int], ...],
        opened: tuple[tuple[int, Sequence, int], ...],
    ) -> Step:
        for sequence in sequences:
            if sequence.speculation is None and not sequence.request.undrafted:
                sequence.speculation = Speculation(_drafter(sequence))
        known, positions = tuple(s.next_row for s in sequences), tuple(s.length for s in sequences)
        runs = Runs(self._context, self._most_rows, self.steps.fixed_rows)
        answered = tuple(len(sequence.answer) for sequence in sequences)
        return step_of_runs(group, sequences, known, positions, answered, runs, released, swapped, opened)

    def _anybody_decodes(self) -> bool:
        return any(slot and not slot.prefilling for group in self._groups for slot in group.slots)


def _drafter(sequence: Sequence) -> Drafter:
    matches = SuffixMatches()
    matches.extend((*sequence.request.prompt_ids, *sequence.answer))
    return ForcedText(sequence.guide, sequence.answer, matches) if sequence.guide else matches
