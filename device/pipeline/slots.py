"""The slots of one group as the head keeps them: who is where, and which prompts' rows lie there to be shared."""

from __future__ import annotations

from bisect import bisect_left
from typing import TypeVar

from device.pipeline.sequences import Request, Sequence

# Prompts that share fewer first tokens are not worth a copy.
SHARED_ROWS = 16

T = TypeVar("T")


class Slots:
    """Decides only; the changes it gives are carried out by every stage, in order. Only rows that a prefill made are shared: those that
    decoding makes differ in their last bits, and with them a later text."""

    def __init__(self, slots: int) -> None:
        self.slots: list[Sequence | None] = [None] * slots
        # For each slot the tokens of the rows that a prefill made in it: of the sequence there, or of the last one that was.
        self.made: list[tuple[int, ...]] = [()] * slots
        self.used_at: list[int] = [0] * slots
        self.in_flight = False
        self.prefilled_last = False
        self.oldest_next = False  # so that the first turn is the oldest
        self.releasing: list[tuple[int, Sequence]] = []
        self.opening: list[Sequence] = []

    @property
    def occupied(self) -> int:
        return sum(slot is not None for slot in self.slots)

    def slot_for(self, request: Request) -> int:
        """Of the free slots the one that holds most of this prompt, else an empty one, else the one that served longest ago."""
        free = [slot for slot, sequence in enumerate(self.slots) if sequence is None]
        best = max(free, key=lambda slot: shared_rows(request, self.made[slot]))
        if shared_rows(request, self.made[best]):
            return best
        return min(free, key=lambda slot: (bool(self.made[slot]), self.used_at[slot], slot))

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
        return min(prefilling, key=lambda sequence: (sequence.request.prefilled - sequence.length, sequence.number))

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
            if self.made[hole] or self.made[highest] or sequence not in self.opening:
                swapped.append((highest, hole))
        return tuple(swapped)

    def open(self) -> tuple[tuple[int, Sequence, int], ...]:
        """Tell of the newly admitted; rows of their slots that are of their prompts already stay."""
        opened = []
        for sequence in self.opening:
            sequence.length = sequence.reused = shared_rows(sequence.request, self.made[sequence.slot])
            self.made[sequence.slot] = sequence.request.prompt_ids[: sequence.length]
            opened.append((sequence.slot, sequence, sequence.length))
        self.opening = []
        return tuple(opened)

    def copy_prefix(self, sequence: Sequence) -> tuple[tuple[int, int, int], ...]:
        """Before a prompt's next chunk: rows that another slot has by now need not be computed again."""
        request, prompt = sequence.request, sequence.request.prompt_ids
        source = max(range(len(self.made)), key=lambda slot: shared_rows(request, self.made[slot]))
        rows = shared_rows(request, self.made[source])
        if request.prefix or rows < sequence.length + SHARED_ROWS:
            return ()
        sequence.reused += rows - sequence.length
        sequence.length = rows
        self.made[sequence.slot] = prompt[:rows]
        return ((source, sequence.slot, rows),)

    def _swap(self, one: int, other: int) -> None:
        _swap(self.slots, one, other)
        _swap(self.made, one, other)
        _swap(self.used_at, one, other)


def shared_rows(request: Request, made: tuple[int, ...]) -> int:
    """How many of a prompt's first rows `made` has: even (so that chunks begin as they would), short of the whole prompt (whose last
    row's logits are wanted), and 0 where it is not worth the while."""
    prompt = request.prompt_ids
    if request.prefix:  # each row depends on all: the same prefix or nothing
        return request.prefix if made == prompt[: request.prefix] else 0
    limit = min(len(prompt) - 1, len(made))
    if limit < SHARED_ROWS or prompt[:SHARED_ROWS] != made[:SHARED_ROWS]:
        return 0
    # The first length at which they differ; slices compare far faster than a loop over tokens.
    length = bisect_left(range(SHARED_ROWS, limit + 1), True, key=lambda length: prompt[:length] != made[:length]) + SHARED_ROWS - 1
    return length - length % 2


def _swap(items: list[T], one: int, other: int) -> None:
    items[one], items[other] = items[other], items[one]
