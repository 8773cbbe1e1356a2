"""Which compiled program a run takes, and its time: a stage has several, each for so many rows and positions.

Programs have static shapes, so a run takes the smallest that holds it: a prompt's rows, or a decode's sequences, and the context are
rounded up to the next that there is a program for; more rows than any program takes go through the largest again and again. The
coordinator, which compiles, and the device, which is told of the times when a stage is loaded, ask by these rules, so that both find the
same program.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from protos.errors import InvalidInput

# What a program's seconds go to, in the roofline's words, and its joules above idling.
SPENT = ("launch", "linear", "attention", "elementwise", "head", "embedding")
JOULES = ("macs", "float macs", "sram", "dram")
# The sizes that programs are compiled for, as far as a chip holds them.
ROWS = (1, 16, 64, 256)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SHORTEST_CONTEXT = 256  # positions; further ones by powers of two


@dataclass(frozen=True)
class Room:
    """What goes through a program at once: `rows` rows of each of `sequences` sequences, one of both 1, over `context` positions."""

    sequences: int
    rows: int
    context: int


@dataclass(frozen=True)
class ProgramTime:
    """Of one program, without the launch that begins it: seconds by SPENT, joules by JOULES."""

    room: Room
    seconds: tuple[float, ...]
    joules: tuple[float, ...]


class Programs(Protocol):
    """Of one stage: the smallest program that holds so much, and how often it runs for it. Raises InvalidInput where there is none."""

    def layers(self, wanted: Room) -> tuple[int, ProgramTime]:
        """Embedding and layers, or layers."""
        ...

    def head(self, rows: int) -> tuple[int, ProgramTime]:
        """Final norm and output head."""
        ...


@dataclass(frozen=True)
class StageTimes:
    """Implements Programs by what is listed: what a device is told with a stage. The rooms of `head` are of so many sequences."""

    layer_programs: tuple[ProgramTime, ...]
    head_programs: tuple[ProgramTime, ...] = ()

    def layers(self, wanted: Room) -> tuple[int, ProgramTime]:
        contexts, programs = self._by_context
        if not contexts:
            raise InvalidInput("no program of the layers is known here")
        number = min(bisect.bisect_left(contexts, wanted.context), len(contexts) - 1)
        return _smallest(programs[contexts[number]], wanted)

    def head(self, rows: int) -> tuple[int, ProgramTime]:
        if not self.head_programs:
            raise InvalidInput("no program of the output head is known here")
        return _smallest(self.head_programs, Room(rows, 1, 1))

    @cached_property
    def _by_context(self) -> tuple[list[int], Mapping[int, tuple[ProgramTime, ...]]]:
        found: dict[int, list[ProgramTime]] = {}
        for program in sorted(self.layer_programs, key=lambda one: (one.room.context, one.room.sequences, one.room.rows)):
            found.setdefault(program.room.context, []).append(program)
        return list(found), {context: tuple(programs) for context, programs in found.items()}


def context_for(positions: int, most: int) -> int:
    """The context that programs are compiled for so that they hold so many positions of a model that has `most`.

    >>> [context_for(positions, 3000) for positions in (1, 257, 2000, 2049)]
    [256, 512, 2048, 3000]
    """
    context = SHORTEST_CONTEXT
    while context < positions:
        context *= 2
    return min(context, most)


def contexts_for(positions: int, most: int) -> tuple[int, ...]:
    """All that programs are compiled for, up to the one that holds so many.

    >>> contexts_for(1000, 3000)
    (256, 512, 1024)
    """
    found = [context_for(1, most)]
    while found[-1] < min(positions, most):
        found.append(context_for(found[-1] + 1, most))
    return tuple(found)


def _smallest(programs: Iterable[ProgramTime], wanted: Room) -> tuple[int, ProgramTime]:
    """Of programs of one context, in order of their sequences and rows, of which the first has one of each."""
    by_rows = wanted.rows > 1
    alike = [one for one in programs if (one.room.sequences if by_rows else one.room.rows) == 1]
    size, sizes = wanted.rows if by_rows else wanted.sequences, [one.room.rows if by_rows else one.room.sequences for one in alike]
    number = min(bisect.bisect_left(sizes, size), len(sizes) - 1)
    return -(-size // sizes[number]), alike[number]
