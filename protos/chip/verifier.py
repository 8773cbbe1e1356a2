"""Proves of a program, before anything runs, that it keeps the rules of docs/isa.md on its core.

Every access lies within its memory and one region of DRAM, whatever the loop indices are; nothing is read that was not written or loaded
before; every wait has a signal before it and every signal a wait behind it; and of two units that touch the same bytes, one of them
writing, the later has waited, by semaphores, until the earlier was done. Of a loop the first iterations are followed one by one, and then
the last: all slots of the rings have been used by then, and one iteration leaves as many signals as it found.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from protos.chip.accesses import Access, Memory, accesses
from protos.chip.core import Core
from protos.chip.instructions import FETCHED, NONE, POSITION, SEMAPHORES, SEQUENCE, UNITS
from protos.chip.program import Program, overlapping
from protos.chip.sequencer import Loop, Placed, Registers, instructions_of, refused, tree
from protos.errors import Corrupt, NoSpace

# What has ended by some moment, as far as a unit knows: how many instructions of each unit. Of the arrays twice: that they have taken
# their operands, and that their results are there.
_TAKEN = len(UNITS)
_CLOCKS = len(UNITS) + 1
_ARRAY = UNITS.index("array")
_MOST_SLOTS = 8  # of a ring
_MORE_ITERATIONS = 2  # followed beyond as many as the largest ring has slots
Clock = tuple[int, ...]
_NOTHING: Clock = (0,) * _CLOCKS


@dataclass(slots=True)
class _Piece:
    """Bytes [start, stop) that were touched alike: by whom they were written last, and read since."""

    start: int
    stop: int
    writer: tuple[int, int]  # (clock, count)
    readers: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Write:
    """`steps` are its register's, by loop index."""

    memory: Memory
    start: int
    stop: int
    writer: tuple[int, int]
    steps: Mapping[int, int]


class _Touched:
    """A memory's bytes as pieces that do not overlap, in order."""

    def __init__(self) -> None:
        self.pieces: list[_Piece] = []

    def cut(self, start: int, stop: int) -> tuple[int, int]:
        """So that pieces begin and end at both places; the numbers of those between."""
        for place in (start, stop):
            number = bisect.bisect_right(self.pieces, place, key=lambda piece: piece.start) - 1
            if number >= 0 and self.pieces[number].start < place < self.pieces[number].stop:
                piece = self.pieces[number]
                self.pieces.insert(number + 1, _Piece(place, piece.stop, piece.writer, dict(piece.readers)))
                piece.stop = place
        first = bisect.bisect_left(self.pieces, start, key=lambda piece: piece.start)
        return first, bisect.bisect_left(self.pieces, stop, key=lambda piece: piece.start)


def verify(program: Program, core: Core) -> None:
    """Raises Corrupt, naming the instruction and the rule that it breaks, InvalidInput for a program of another core, and NoSpace for one
    that needs more than the core has."""
    program.check_core(core)
    if program.scratchpad_bytes > core.scratchpad_bytes or program.accumulator_bytes > core.accumulator_bytes:
        raise NoSpace(
            f"the program needs {program.scratchpad_bytes:,} bytes of scratchpad and {program.accumulator_bytes:,} of accumulators; "
            f"{core.name} has {core.scratchpad_bytes:,} and {core.accumulator_bytes:,}"
        )
    if program.dram_bytes > core.dram_bytes:
        raise NoSpace(f"the program needs {program.dram_bytes:,} bytes of DRAM; {core.name} has {core.dram_bytes:,}")
    if (both := overlapping(program.regions)) is not None:
        raise Corrupt(f"chip program: regions {both[0].name} and {both[1].name} overlap", advice="compile it again: glmfleet compile")
    body = tree(program.instructions)
    for placed in instructions_of(body):
        _check_alone(placed, core, program)
    verifier = _Verifier(program, core)
    verifier.run(body)
    verifier.check_end(body[-1])


def _check_alone(placed: Placed, core: Core, program: Program) -> None:
    """What an instruction says by itself."""
    instruction = placed.instruction
    if core.lacks(instruction.name):
        raise refused(placed, f"{core.name} does not have it")
    if instruction.name == "BEGIN" and instruction["operator"] >= len(program.operators):
        raise refused(placed, f"there is no operation {instruction['operator']}")
    if instruction.name in ("PRELOAD", "GEMM", "MATMUL_SOFTMAX") and not core.holds(instruction["depth"], instruction["width"]):
        raise refused(placed, f"the arrays do not hold {instruction['depth']} x {instruction['width']}")
    if instruction.name == "GEMM" and instruction.has("stream") and "stream" not in core.mechanisms:
        raise refused(placed, f"{core.name} does not stream tiles")
    if instruction.name == "RING" and instruction["slots"] > _MOST_SLOTS:
        raise refused(placed, f"a ring has at most {_MOST_SLOTS} slots")


class _Verifier:
    def __init__(self, program: Program, core: Core) -> None:
        self._target = program.target
        self._registers = Registers()
        self._clocks: list[Clock] = [_NOTHING] * len(UNITS)
        self._sequencer: Clock = _NOTHING
        self._counts = [0] * _CLOCKS
        self._tokens: list[deque[Clock]] = [deque() for _ in range(SEMAPHORES)]
        self._partners: list[dict[str, str]] = [{} for _ in range(SEMAPHORES)]
        self._touched: dict[Memory, _Touched] = {name: _Touched() for name in ("scratchpad", "accumulators", "dram", "banks")}
        self._limits = {"scratchpad": program.scratchpad_bytes, "accumulators": program.accumulator_bytes, "banks": core.banks}
        regions = sorted(program.regions, key=lambda region: region.address)
        self._regions, self._starts = regions, [region.address for region in regions]
        self._ranges = {POSITION: program.target.context - program.target.rows + 1}
        slots = [one["slots"] for one in program.instructions if one.name == "RING"]
        self._followed = max(slots, default=1) + _MORE_ITERATIONS
        self._recorders: list[list[_Write]] = []

    def run(self, body: Sequence[Placed | Loop]) -> None:
        for node in body:
            if isinstance(node, Loop):
                self._loop(node)
            else:
                self._step(node)

    def _loop(self, loop: Loop) -> None:
        """First iterations, then the last; what those between write is written."""
        self._ranges[loop.level] = loop.count
        if loop.level == SEQUENCE and loop.count != self._target.sequences:
            raise refused(Placed(loop.address, next(instructions_of(loop.body)).instruction), "sequences are as many as the program is for")
        before = [len(queue) for queue in self._tokens]
        followed = self._followed
        skips = loop.count > followed + 2
        for index in [*range(followed), loop.count - 1] if skips else range(loop.count):
            self._registers.indices[loop.level] = index
            recorded: list[_Write] = []
            if skips and index == followed - 1:
                self._recorders.append(recorded)
            self.run(loop.body)
            if skips and index == followed - 1:
                self._recorders.pop()
                self._write_skipped(recorded, loop.level, loop.count - 2 - index)
            if index == 0 and loop.count > 1 and [len(queue) for queue in self._tokens] != before:
                first = next(instructions_of(loop.body))
                raise refused(Placed(loop.address, first.instruction), "an iteration of this loop leaves other signals than it found")
        self._registers.indices[loop.level] = 0
        del self._ranges[loop.level]

    def _write_skipped(self, recorded: Sequence[_Write], level: int, count: int) -> None:
        """As `count` iterations more would have written, each a step further than the one that was recorded."""
        for write in recorded:
            if step := write.steps.get(level, 0):
                first, last = step, count * step
                self._written(replace(write, start=write.start + min(first, last), stop=write.stop + max(first, last)))

    def _written(self, write: _Write) -> None:
        touched = self._touched[write.memory]
        first, stop = touched.cut(write.start, write.stop)
        touched.pieces[first:stop] = [_Piece(write.start, write.stop, write.writer)]
        for recorder in self._recorders:
            recorder.append(write)

    def check_end(self, finish: Placed | Loop) -> None:
        assert isinstance(finish, Placed)
        for number, queue in enumerate(self._tokens):
            if queue:
                raise refused(finish, f"semaphore {number} was signalled and nobody waits for it")

    def _step(self, placed: Placed) -> None:
        instruction, registers = placed.instruction, self._registers
        match instruction.name:
            case "SET" | "STEP" | "RING" | "NEXT":
                registers.execute(instruction)
                return
            case "BEGIN":
                if instruction.has("launch"):  # all units have ended what was before
                    self._clocks = [tuple(self._counts)] * len(UNITS)
                    self._sequencer = tuple(self._counts)
                return
            case "FINISH":
                return
        unit = instruction.unit
        known = self._known(placed)
        early, late = self._ended(placed, known)
        for access in accesses(instruction, registers):
            self._check_bounds(placed, access)
            self._check_order(placed, access, known)
        for semaphore, token in zip(instruction.signals, (early, late), strict=True):
            if semaphore:
                self._partner(placed, semaphore, "signals", unit)
                self._tokens[semaphore].append(token)
        if instruction.name == "FETCH":
            self._ranges[FETCHED] = instruction["limit"]
            registers.indices[FETCHED] = instruction["limit"] - 1
        for operand in placed.advances:
            registers.advance(operand)

    def _known(self, placed: Placed) -> Clock:
        """What has ended when this begins: what its unit knows, and what the tokens that it waits for say."""
        instruction, unit = placed.instruction, placed.instruction.unit
        known = self._sequencer if unit == "sequencer" else _join(self._clocks[UNITS.index(unit)], self._sequencer)
        for semaphore in instruction.waits:
            if semaphore:
                self._partner(placed, semaphore, "waits", unit)
                if not self._tokens[semaphore]:
                    raise refused(placed, f"it waits for semaphore {semaphore}, which nothing before it signals")
                known = _join(known, self._tokens[semaphore].popleft())
        if unit == "array" and (instruction.name != "GEMM" or not instruction.has("stream")):
            known = _with(known, _ARRAY, self._counts[_ARRAY])  # all before has drained
        return known

    def _ended(self, placed: Placed, known: Clock) -> tuple[Clock, Clock]:
        """What is known once this has taken its operands, and once it has ended."""
        unit = placed.instruction.unit
        if unit == "sequencer":
            self._sequencer = known
            return known, known
        number = UNITS.index(unit)
        self._counts[number] += 1
        if number == _ARRAY:
            self._counts[_TAKEN] += 1
            early = _with(known, _TAKEN, self._counts[_TAKEN])
            self._clocks[number] = early
            late = _with(early, _ARRAY, self._counts[_ARRAY])
            streams = placed.instruction.name == "GEMM" and placed.instruction.has("stream")
            return (early if streams else late), late
        late = _with(known, number, self._counts[number])
        self._clocks[number] = late
        return late, late

    def _partner(self, placed: Placed, semaphore: int, what: str, unit: str) -> None:
        other = self._partners[semaphore].setdefault(what, unit)
        if other != unit:
            raise refused(placed, f"semaphore {semaphore} belongs to {other}, not to {unit}")

    def _check_bounds(self, placed: Placed, access: Access) -> None:
        """At all values of the indices."""
        operand = placed.instruction[access.field]
        register = self._registers.all[operand & NONE]
        low = high = 0
        for level, step in register.steps.items():
            index = self._registers.indices[level]
            reach = self._ranges.get(level, 1) - 1
            low += min(0, reach * step) - index * step
            high += max(0, reach * step) - index * step
        if access.field == "zeros":
            low, high = low // 2, high // 2
        start, stop = access.start + low, access.stop + high
        if access.memory == "dram":
            number = bisect.bisect_right(self._starts, access.start) - 1
            if number < 0 or not (self._regions[number].address <= start and stop <= self._regions[number].stop):
                if not self._among_experts(start, stop):
                    raise refused(placed, f"DRAM {start:#x} to {stop:#x} is not within one region")
            elif access.writes and self._regions[number].purpose in ("weights", "input"):
                raise refused(placed, f"it writes into {self._regions[number].name}")
        elif start < 0 or stop > self._limits[access.memory]:
            raise refused(
                placed, f"{access.field} is {start:#x} to {stop:#x}, and {access.memory} ends at {self._limits[access.memory]:#x}"
            )

    def _among_experts(self, start: int, stop: int) -> bool:
        """Whether the bytes reach over regions of weights of one size: of which one is chosen by a number that is fetched."""
        first, last = (bisect.bisect_right(self._starts, place) - 1 for place in (start, stop - 1))
        if first < 0:
            return False
        across = self._regions[first : last + 1]
        alike = {(region.purpose, region.size_bytes) for region in across} == {("weights", across[0].size_bytes)}
        return alike and FETCHED in self._ranges and stop <= across[-1].stop

    def _is_written(self, address: int) -> bool:
        """Whether programs write into this region of DRAM."""
        number = bisect.bisect_right(self._starts, address) - 1
        return number >= 0 and self._regions[number].purpose in ("cache", "scratch", "output")

    def _check_order(self, placed: Placed, access: Access, known: Clock) -> None:
        unit = placed.instruction.unit
        own = UNITS.index(unit) if unit != "sequencer" else -1
        touched = self._touched[access.memory]
        if access.memory == "dram" and not self._is_written(access.start):
            return
        first, stop = touched.cut(access.start, access.stop)
        pieces = touched.pieces[first:stop]
        if access.memory == "dram" and not access.writes and not pieces:  # of an earlier run, or of the host
            touched.pieces.insert(first, _Piece(access.start, access.stop, (0, 0)))
            pieces = touched.pieces[first : first + 1]
        if not access.writes and access.memory != "dram":
            covered = access.start
            for piece in pieces:
                if piece.start > covered:
                    break
                covered = piece.stop
            if covered < access.stop:
                raise refused(placed, f"{access.field} is read at {covered:#x} of {access.memory}, where nothing was written")
        for piece in pieces:
            clock, count = piece.writer
            exempt = own == _ARRAY and clock == _ARRAY and access.memory == "accumulators"
            if known[clock] < count and clock != own and not exempt:
                raise refused(
                    placed, f"{access.field} does not wait for the {UNITS[clock]} unit that writes {access.memory} {piece.start:#x}"
                )
            if own == _ARRAY and clock == _ARRAY and known[_ARRAY] < count and not exempt:
                raise refused(placed, f"{access.field} streams in before what it reads has drained")
            if access.writes:
                for reader, times in piece.readers.items():
                    if known[reader] < times and (reader != own and not (reader == _TAKEN and own == _ARRAY)):
                        name = UNITS[min(reader, _ARRAY)] if reader == _TAKEN else UNITS[reader]
                        raise refused(
                            placed, f"{access.field} does not wait for the {name} unit that reads {access.memory} {piece.start:#x}"
                        )
        if own < 0:
            return
        if access.writes:
            steps = self._registers.all[placed.instruction[access.field] & NONE].steps
            self._written(_Write(access.memory, access.start, access.stop, (own, self._counts[own]), steps))
        else:
            reader = _TAKEN if own == _ARRAY else own
            for piece in pieces:
                piece.readers[reader] = self._counts[reader]


def _join(first: Clock, second: Clock) -> Clock:
    return first if first == second else tuple(map(max, first, second))


def _with(clock: Clock, place: int, count: int) -> Clock:
    return (*clock[:place], max(clock[place], count), *clock[place + 1 :])
