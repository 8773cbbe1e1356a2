"""The slots of one group as the head keeps them: who is where, and which prompts' rows lie there to be shared."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from device.pipeline.sequences import Request, Sequence
from protos.even import even_down

# Prompts that share fewer first tokens are not worth a copy.
SHARED_ROWS = 16

T = TypeVar("T")


@dataclass(frozen=True)
class Held:
    """Whose tokens the first rows of a slot are, of the last sequence that was there, or of the prompt of the one that is.

    The first `exact` rows are those of a cold run: a prefill made them, behind nothing but such rows. Those that decoding makes differ in
    their last bits, and with them a later text.
    """

    tokens: tuple[int, ...] = ()
    exact: int = 0

    def prefilled(self, tokens: tuple[int, ...]) -> Held:
        """After a prefill up to the end of `tokens`, which begin with those that are held."""
        return Held(tokens, len(tokens) if self.exact == len(self.tokens) else self.exact)

    def usable(self, request: Request) -> tuple[int, ...]:
        """Only exact rows, unless the request takes others too."""
        return self.tokens if request.reuse_decoded else self.tokens[: self.exact]

    def shared(self, request: Request) -> int:
        """How many of a prompt's first rows can be taken over: even (so that chunks begin as they would), short of the whole prompt (whose
        last row's logits are wanted), and 0 where it is not worth the while."""
        prompt = request.prompt_ids
        if request.told.of_prompt:  # what is told of a row is not kept with it
            return 0
        if request.prefix:  # each row depends on all: the same prefix, as a prefill made it, or nothing
            return request.prefix if self.tokens[: self.exact] == prompt[: request.prefix] else 0
        tokens = self.usable(request)
        limit = min(len(prompt) - 1, len(tokens))
        if limit < SHARED_ROWS or prompt[:SHARED_ROWS] != tokens[:SHARED_ROWS]:
            return 0
        # The first length at which they differ; slices compare far faster than a loop over tokens.
        length = bisect_left(range(SHARED_ROWS, limit + 1), True, key=lambda length: prompt[:length] != tokens[:length]) + SHARED_ROWS - 1
        return even_down(length)


@dataclass(frozen=True)
class Resumable:
    """So many first rows of a free slot are of an attempt at a request whose ring broke."""

    key: bytes
    rows: int


class Slots:
    """Decides only; the changes it gives are carried out by every stage, in order."""

    def __init__(self, slots: int, *, decoded_exact: bool = False) -> None:
        """`decoded_exact`: what decoding makes is what prefill would make (protos/decoding.py, "pairs")."""
        self._decoded_exact = decoded_exact
        self.slots: list[Sequence | None] = [None] * slots
        self.held = [Held()] * slots
        self.resumable: list[Resumable | None] = [None] * slots
        self.used_at: list[int] = [0] * slots
        self.in_flight = False
        self.prefilled_last = False
        self.oldest_next = False  # so that the first turn is the oldest
        self.releasing: list[tuple[int, Sequence]] = []
        self.opening: list[Sequence] = []

    @property
    def occupied(self) -> int:
        return sum(slot is not None for slot in self.slots)

    def resumed(self, request: Request) -> int | None:
        """The slot in which rows of an attempt before are, None where none are."""
        slots = (slot for slot, kept in enumerate(self.resumable) if kept and kept.key == request.key)
        return next((slot for slot in slots if self.slots[slot] is None), None)

    def slot_for(self, request: Request) -> int:
        """Where rows of an attempt before are; else of the free slots the one that holds most of this prompt and little else; else an empty
        one, else the one that served longest ago, and what others hold of the prompt is copied there (see `copy_prefix`)."""
        if (resumed := self.resumed(request)) is not None:
            return resumed
        free = [slot for slot, sequence in enumerate(self.slots) if sequence is None]
        best = self._holding_most(request, free)
        shared = self.held[best].shared(request)
        if shared and (request.prefix or len(self.held[best].usable(request)) < shared + SHARED_ROWS):
            return best
        return min(free, key=lambda slot: (self.resumable[slot] is not None, bool(self.held[slot].tokens), self.used_at[slot], slot))

    def seat_nobody(self) -> None:
        """Those that were given slots and have not begun wait again."""
        for sequence in self.opening:
            self.slots[sequence.slot] = None
            sequence.group = sequence.slot = -1
        self.opening = []

    def next_prompt(self, prefilling: list[Sequence]) -> Sequence:
        """By turns the oldest, which so cannot starve, and the one with the least left, which so need not wait for a long one.

        A prompt that was alone has had the oldest's turn: who joins it is not made to wait for a second chunk of it.
        """
        if len(prefilling) == 1:
            self.oldest_next = True
            return prefilling[0]
        self.oldest_next = not self.oldest_next
        if self.oldest_next:
            return min(prefilling, key=lambda sequence: sequence.number)
        return min(prefilling, key=lambda sequence: (sequence.prefilled - sequence.length, sequence.number))

    def close_holes(self) -> tuple[tuple[int, int], ...]:
        """Let the highest slots take the lowest holes, so that a decode run is no wider than it must be; what a hole held is kept."""
        swapped: list[tuple[int, int]] = []
        while None in self.slots:
            hole = self.slots.index(None)
            highest = max((slot for slot, sequence in enumerate(self.slots) if sequence), default=-1)
            if highest < hole:
                break
            sequence = self.slots[highest]
            assert sequence is not None
            self._swap(highest, hole)
            sequence.slot = hole
            if self._holds(hole) or self._holds(highest) or sequence not in self.opening:
                swapped.append((highest, hole))
        return tuple(swapped)

    def open(self) -> tuple[tuple[int, Sequence, int], ...]:
        """Tell of the newly admitted; rows of their slots that are of their prompts already stay."""
        opened = []
        for sequence in self.opening:
            kept, self.resumable[sequence.slot] = self.resumable[sequence.slot], None
            if kept and kept.key == sequence.request.key:
                sequence.begin(sequence.request.kept(kept.rows))
                self._resume(sequence)
            else:
                sequence.begin(self.held[sequence.slot].shared(sequence.request))
                sequence.reused = sequence.length
                self._take_over(sequence, self.held[sequence.slot])
            opened.append((sequence.slot, sequence, sequence.length))
        self.opening = []
        return tuple(opened)

    def copy_prefix(self, sequence: Sequence) -> tuple[tuple[int, int, int], ...]:
        """Before a prompt's next chunk: rows that another slot has by now need not be computed again."""
        request = sequence.request
        source = self._holding_most(request, range(len(self.held)))
        rows = self.held[source].shared(request)
        if request.prefix or rows < sequence.length + SHARED_ROWS:
            return ()
        sequence.reused += rows - sequence.length
        sequence.length = rows
        self._take_over(sequence, self.held[source])
        return ((source, sequence.slot, rows),)

    def close(self, sequence: Sequence) -> None:
        """It has ended, and its slot keeps its rows until somebody else needs the room."""
        tokens = (*sequence.request.prompt_ids, *sequence.answer)[: sequence.length]
        self.held[sequence.slot] = Held(tokens, len(tokens) if self._decoded_exact else self.held[sequence.slot].exact)
        if sequence.kept_for_another:
            self.resumable[sequence.slot] = Resumable(sequence.request.key, sequence.length)
        self.releasing.append((sequence.slot, sequence))

    def _holding_most(self, request: Request, slots: Iterable[int]) -> int:
        """Of equals the one with the most exact rows."""
        return max(slots, key=lambda slot: (self.held[slot].shared(request), self.held[slot].exact))

    def _take_over(self, sequence: Sequence, held: Held) -> None:
        self.held[sequence.slot] = Held(sequence.request.prompt_ids[: sequence.length], min(sequence.length, held.exact))

    def _resume(self, sequence: Sequence) -> None:
        request = sequence.request
        if self._decoded_exact:
            tokens = (*request.prompt_ids, *request.forced_ids)[: sequence.length]
            self.held[sequence.slot] = Held(tokens, len(tokens))
            return
        exact = min(sequence.length, request.prefilled)
        tokens = sequence.input_ids[: sequence.length if sequence.forced_prefilled else exact]
        self.held[sequence.slot] = Held(tokens, 0 if request.reuse_decoded else exact)

    def _holds(self, slot: int) -> bool:
        return bool(self.held[slot].tokens) or self.resumable[slot] is not None

    def _swap(self, one: int, other: int) -> None:
        _swap(self.resumable, one, other)
        _swap(self.slots, one, other)
        _swap(self.held, one, other)
        _swap(self.used_at, one, other)


def _swap(items: list[T], one: int, other: int) -> None:
    items[one], items[other] = items[other], items[one]
