"""Which rows run next: continuous batching with chunked prefill over slot groups, one step of a group in flight.

Decides only; never touches a tensor, a clock or a queue of messages.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from device.pipeline.sampler import Sampling
from protos.errors import Busy

# Rows of a prefill chunk while anybody decodes: the longest a running decode waits for a stranger's prompt.
PREFILL_ROWS_BESIDE_DECODE = 64
WAITING_SEQUENCES = 256


class Ending(Enum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Request:
    """`forced_ids` are the answer's known first tokens: they go through the decode path and are counted, not told."""

    prompt_ids: tuple[int, ...]
    forced_ids: tuple[int, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 1
    stop_token_ids: frozenset[int] = frozenset()


@dataclass(eq=False)
class Sequence:
    """One request on its way. `number` is its name on the ring."""

    number: int
    request: Request
    group: int = -1
    slot: int = -1
    length: int = 0  # positions in the cache
    answer: list[int] = field(default_factory=list)
    paused: bool = False
    in_flight: bool = False
    cancelled: bool = False
    ending: Ending | None = None

    @property
    def prefilling(self) -> bool:
        return self.length < len(self.request.prompt_ids)

    @property
    def next_is_forced(self) -> bool:
        return len(self.answer) < len(self.request.forced_ids)


@dataclass(frozen=True)
class Step:
    """One microbatch of `group`. Changes of slots come first, in the order released, moved, opened; then the rows run.

    Prefill: one sequence, several tokens at [start, …). Decode: a token of each sequence, in slot order.
    """

    group: int
    prefill: bool
    sequences: tuple[Sequence, ...]
    tokens: tuple[int, ...]
    positions: tuple[int, ...]  # prefill: the first only
    wanted: tuple[Sequence, ...]  # whose last row's logits are needed
    released: tuple[tuple[int, Sequence], ...]  # (slot, sequence)
    moved: tuple[tuple[int, int], ...]  # (from, to)
    opened: tuple[tuple[int, Sequence], ...]


@dataclass(frozen=True)
class Told:
    """A token for the client."""

    sequence: Sequence
    index: int
    token: int


class _Group:
    def __init__(self, slots: int) -> None:
        self.slots: list[Sequence | None] = [None] * slots
        self.in_flight = False
        self.prefilled_last = False
        self.releasing: list[tuple[int, Sequence]] = []
        self.opening: list[Sequence] = []

    @property
    def occupied(self) -> int:
        return sum(slot is not None for slot in self.slots)


class Scheduler:
    """State of all sequences of one pipeline at its head."""

    def __init__(self, groups: int, slots_per_group: int, context: int, prefill_chunk: int) -> None:
        self._groups = [_Group(slots_per_group) for _ in range(groups)]
        self._context = context
        self._chunk = prefill_chunk
        self._waiting: deque[Sequence] = deque()
        self._turn = 0
        self._numbers = 0
        self._unseen: list[Sequence] = []

    def submit(self, request: Request) -> Sequence:
        """Raises Busy when the queue is full."""
        if len(self._waiting) >= WAITING_SEQUENCES:
            raise Busy(f"{len(self._waiting)} requests are waiting already", retry_after_seconds=1.0)
        self._numbers += 1
        sequence = Sequence(self._numbers, request)
        self._waiting.append(sequence)
        self._admit()
        return sequence

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
                group.in_flight = True
                for sequence in step.sequences:
                    sequence.in_flight = True
                return step
        return None

    def complete(self, step: Step, sampled: dict[Sequence, int]) -> list[Told]:
        """Take a step's result: `sampled` has a token for each of `step.wanted`. What ends is released with its group's next step."""
        group = self._groups[step.group]
        group.in_flight = False
        told = []
        if step.prefill:
            step.sequences[0].length += len(step.tokens)
        for sequence in step.sequences:
            sequence.in_flight = False
            if not step.prefill:
                sequence.length += 1
            if sequence.cancelled:
                self._end(sequence, Ending.CANCELLED)
            elif not sequence.prefilling:
                told += self._append(sequence, sampled)
        self._admit()
        return told

    def _append(self, sequence: Sequence, sampled: dict[Sequence, int]) -> list[Told]:
        request, index = sequence.request, len(sequence.answer)
        forced = sequence.next_is_forced
        token = request.forced_ids[index] if forced else sampled[sequence]
        if token in request.stop_token_ids:
            self._end(sequence, Ending.STOP)
            return []
        sequence.answer.append(token)
        if len(sequence.answer) >= request.max_tokens or sequence.length >= self._context:
            self._end(sequence, Ending.LENGTH)
        return [] if forced else [Told(sequence, index, token)]

    def _end(self, sequence: Sequence, ending: Ending) -> None:
        sequence.ending = ending
        if sequence.slot < 0:
            self._waiting.remove(sequence)
            self._unseen.append(sequence)
            return
        group = self._groups[sequence.group]
        group.slots[sequence.slot] = None
        if sequence in group.opening:
            group.opening.remove(sequence)
            self._unseen.append(sequence)
        else:
            group.releasing.append((sequence.slot, sequence))
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            index, group = min(enumerate(self._groups), key=lambda pair: pair[1].occupied)
            if group.occupied == len(group.slots):
                return
            sequence = self._waiting.popleft()
            sequence.group, sequence.slot = index, group.slots.index(None)
            group.slots[sequence.slot] = sequence
            group.opening.append(sequence)

    def _step_of(self, index: int, group: _Group) -> Step | None:
        ready = [sequence for sequence in group.slots if sequence and not sequence.paused]
        prefilling = [sequence for sequence in ready if sequence.prefilling]
        decoding = [sequence for sequence in ready if not sequence.prefilling]
        if not (ready or group.releasing):
            return None
        prefill = bool(prefilling) and not (decoding and group.prefilled_last)
        group.prefilled_last = prefill
        released, moved, opened = tuple(group.releasing), self._close_holes(group), tuple((s.slot, s) for s in group.opening)
        group.releasing, group.opening = [], []
        sequences: tuple[Sequence, ...]
        positions: tuple[int, ...]
        wanted: tuple[Sequence, ...]
        if prefill:
            first = min(prefilling, key=lambda sequence: sequence.number)
            chunk = min(self._chunk, PREFILL_ROWS_BESIDE_DECODE) if self._anybody_decodes() else self._chunk
            tokens = first.request.prompt_ids[first.length : first.length + chunk]
            last = first.length + len(tokens) == len(first.request.prompt_ids)
            sequences, positions, wanted = (first,), (first.length,), (first,) if last and not first.next_is_forced else ()
        else:
            sequences = tuple(sorted(decoding, key=lambda sequence: sequence.slot))
            tokens, positions = tuple(s.answer[-1] for s in sequences), tuple(s.length for s in sequences)
            wanted = tuple(s for s in sequences if not s.next_is_forced)
        return Step(index, prefill, sequences, tokens, positions, wanted, released, moved, opened)

    def _anybody_decodes(self) -> bool:
        return any(slot and not slot.prefilling for group in self._groups for slot in group.slots)

    def _close_holes(self, group: _Group) -> tuple[tuple[int, int], ...]:
        """Let the highest slots take the lowest holes, so that a decode run is no wider than it must be."""
        moved: list[tuple[int, int]] = []
        while True:
            hole = group.slots.index(None) if None in group.slots else len(group.slots)
            highest = max((slot for slot, sequence in enumerate(group.slots) if sequence), default=-1)
            if highest < hole:
                return tuple(moved)
            sequence = group.slots[highest]
            assert sequence is not None
            group.slots[hole], group.slots[highest] = sequence, None
            sequence.slot = hole
            if sequence not in group.opening:
                moved.append((highest, hole))
