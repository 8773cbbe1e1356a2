"""How long a program takes on a core: five units with queues of their own, event times from the very instructions.

Times are whole ticks, so that a loop whose iterations repeat one another, but for a shift, is found to do so exactly: what a body costs
is then counted once for each iteration that is left. Waits are met in program order, in which every signal comes before its wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from protos.chip.core import Core
from protos.chip.costs import Cost, cost
from protos.chip.instructions import UNITS, Unit
from protos.chip.program import Program
from protos.chip.semaphores import SEMAPHORES
from protos.chip.sequencer import Loop, Placed, refused, tree

TICKS = 1024  # of a cycle
_PERIODS = 4  # a loop's iterations are compared with so many before: no ring has more slots
_LAUNCH, _ISSUE = 16, 17  # causes of a stall, behind the semaphores' numbers
_CAUSES = 18
_ARRAY = UNITS.index("array")
_STORE, _LOAD = UNITS.index("store"), UNITS.index("load")
# Of the counters: busy ticks and stalls of each unit, then sums.
_BUSY, _STALLS = 0, len(UNITS)
_MACS = _STALLS + len(UNITS) * _CAUSES
_FLOAT_MACS, _SRAM, _DRAM, _INSTRUCTIONS = range(_MACS + 1, _MACS + 5)
_COUNTERS = _INSTRUCTIONS + 1


@dataclass(frozen=True)
class Counts:
    """What was done: multiply-accumulates, bytes, and instructions as the units see them."""

    macs: int = 0
    float_macs: int = 0
    sram_bytes: int = 0
    dram_bytes: int = 0
    instructions: int = 0


@dataclass(frozen=True)
class OperatorTime:
    """Of one operation: cycles by which it ends later than all before it, and when each unit was at it, (first cycle, last cycle)."""

    name: str
    cycles: float
    spans: Mapping[Unit, tuple[float, float]]
    counts: Counts


@dataclass(frozen=True)
class Timing:
    """Of one run. `busy` are cycles of each unit; `stalls` cycles that a unit stood still, by what it waited for."""

    core: Core
    cycles: float
    counts: Counts
    busy: Mapping[Unit, float]
    stalls: Mapping[Unit, Mapping[str, float]]
    operators: tuple[OperatorTime, ...]

    @property
    def seconds(self) -> float:
        return self.cycles / self.core.clock_hertz

    @property
    def array_utilisation(self) -> float:
        """Of all multipliers, int8."""
        return (self.counts.macs + self.counts.float_macs) / (self.core.arrays * self.core.rows * self.core.columns * self.cycles)

    @property
    def dram_utilisation(self) -> float:
        """Of the peak bandwidth."""
        return self.counts.dram_bytes / (self.core.dram_bytes_per_second * self.seconds)

    @property
    def joules(self) -> Mapping[str, float]:
        """By class; idling is what the core draws for all of the time."""
        return {**dynamic_joules(self.core, self.counts), "idle": self.core.idle_watts * self.seconds}


def dynamic_joules(core: Core, counts: Counts) -> dict[str, float]:
    """By class, on top of the idle power."""
    return {
        "macs": core.joules_per_mac * counts.macs,
        "float macs": core.joules_per_float_mac * counts.float_macs,
        "sram": core.joules_per_sram_byte * counts.sram_bytes,
        "dram": core.joules_per_dram_byte * counts.dram_bytes,
    }


def time_program(program: Program, core: Core) -> Timing:
    """Raises Corrupt, naming the instruction, for a wait that nobody signals."""
    clock = _Clock(program, core)
    clock.run(clock.body)
    clock.end_operator()
    cycles = clock.end / TICKS
    busy = {unit: clock.counters[_BUSY + number] / TICKS for number, unit in enumerate(UNITS)}
    stalls = {
        unit: {
            cause_name(cause): clock.counters[_STALLS + number * _CAUSES + cause] / TICKS
            for cause in range(_CAUSES)
            if clock.counters[_STALLS + number * _CAUSES + cause]
        }
        for number, unit in enumerate(UNITS)
    }
    return Timing(core, cycles, _counts(clock.counters), busy, stalls, tuple(clock.operators))


def cause_name(cause: int) -> str:
    if cause in SEMAPHORES:
        return SEMAPHORES[cause].meaning
    return {_LAUNCH: "a launch", _ISSUE: "the sequencer"}[cause]


def _counts(counters: Sequence[int]) -> Counts:
    return Counts(*(counters[place] for place in (_MACS, _FLOAT_MACS, _SRAM, _DRAM, _INSTRUCTIONS)))


@dataclass(slots=True)
class _Cost:
    """In whole ticks and bytes."""

    cycles: int
    latency: int
    sums: tuple[int, int, int, int]

    @staticmethod
    def of(found: Cost) -> _Cost:
        sums = (found.macs, found.float_macs, round(found.sram_bytes), found.dram_bytes)
        return _Cost(round(found.cycles * TICKS), round(found.latency * TICKS), sums)


@dataclass
class _Clock:
    program: Program
    core: Core
    body: tuple[Placed | Loop, ...] = ()
    free: list[int] = field(default_factory=lambda: [0] * len(UNITS))
    drained: int = 0
    end: int = 0
    issue: int = 0
    issue_binds: bool = False
    store_debt: int = 0
    launched: set[int] = field(default_factory=set)  # units that have begun nothing since
    tokens: list[deque[int]] = field(default_factory=lambda: [deque() for _ in range(16)])
    counters: list[int] = field(default_factory=lambda: [0] * _COUNTERS)
    operators: list[OperatorTime] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.body = tree(self.program.instructions)
        self._pitches = [0] * 32
        self._costs: dict[tuple[int, int], _Cost] = {}
        self._operator = -1
        self._begun: tuple[int, list[int]] = (0, list(self.counters))
        self._first: dict[int, int] = {}

    def run(self, body: Sequence[Placed | Loop]) -> None:
        for node in body:
            if isinstance(node, Loop):
                self._loop(node)
            else:
                self._step(node)

    def _loop(self, loop: Loop) -> None:
        before: deque[tuple[list[int], list[int], bool]] = deque(maxlen=_PERIODS)
        index = 0
        while index < loop.count:
            self.issue_binds, outer = False, self.issue_binds
            self.run(loop.body)
            bound = self.issue_binds
            self.issue_binds = bound or outer
            index += 1
            if loop.count - index < 2:
                continue
            state = self._state()
            for period, (old, counters, _) in enumerate(reversed(before), 1):
                recent = [entry[2] for entry in list(before)[len(before) - period + 1 :]]
                shift = _shift(old, state, issue_binds=bound or any(recent))
                if shift is not None and (periods := (loop.count - index) // period):
                    self._skip(shift, old, state, periods)
                    grown = [new - past for new, past in zip(self.counters, counters, strict=True)]
                    self.counters = [now + periods * more for now, more in zip(self.counters, grown, strict=True)]
                    index += periods * period
                    before.clear()
                    break
            else:
                before.append((state, list(self.counters), bound))

    def _state(self) -> list[int]:
        """The issue time first, the debt second, then all others."""
        times = [self.issue, self.store_debt, self.drained, self.end, *self.free]
        for number, queue in enumerate(self.tokens):
            times.append(-number - 1)
            times += queue
        return times

    def _skip(self, shift: int, old: list[int], state: list[int], periods: int) -> None:
        """All times that moved by `shift` in a period move on; the issue time by its own."""
        more = periods * shift
        places = iter(zip(old, state, strict=True))

        def moved(value: int) -> int:
            past, new = next(places)
            return value + more if past != new else value

        past_issue, issue = next(places)
        self.issue += periods * (issue - past_issue)
        next(places)
        self.drained, self.end = moved(self.drained), moved(self.end)
        self.free = [moved(value) for value in self.free]
        for queue in self.tokens:
            next(places)
            for number, value in enumerate(queue):
                queue[number] = moved(value)

    def _step(self, placed: Placed) -> None:
        instruction = placed.instruction
        name = instruction.name
        self.issue += TICKS
        if name == "SET":
            self._pitches[int(instruction.values[0])] = int(instruction.values[2])
            return
        if name in ("STEP", "RING", "NEXT"):
            return
        if name == "BEGIN":
            self._begin(int(instruction.values[0]), launch=instruction.has("launch"))
            return
        if name == "FETCH":
            self.issue = max(self.issue, self._token(placed, instruction.waits[0]) if instruction.waits[0] else 0)
            self.issue_binds = True
            return
        if name != "FINISH":
            self._execute(placed)

    def _execute(self, placed: Placed) -> None:
        instruction, counters = placed.instruction, self.counters
        unit = UNITS.index(instruction.unit)
        name = instruction.name
        free = self.drained if unit == _ARRAY and name != "SYNC" and not instruction.variant & 2 else self.free[unit]
        if name == "MATMUL_SOFTMAX":
            free = self.drained
        start, cause = free, 0
        for semaphore in instruction.waits:
            if semaphore and (token := self._token(placed, semaphore)) > start:
                start, cause = token, semaphore
        if self.issue > start:
            start, cause, self.issue_binds = self.issue, _LAUNCH if unit in self.launched else _ISSUE, True
        if start > self.free[unit] and cause:
            counters[_STALLS + unit * _CAUSES + cause] += start - max(free, self.free[unit])
        self.launched.discard(unit)
        if name == "SYNC":
            self.free[unit] = finished = early = start
            if unit == _ARRAY:
                self.drained = max(self.drained, start)
        else:
            spent = self._cost(placed)
            cycles = spent.cycles
            if unit == _STORE:
                self.store_debt += cycles
            elif unit == _LOAD:
                cycles += self.store_debt  # both use one bus
                self.store_debt = 0
            early = self.free[unit] = start + cycles
            finished = start + cycles + spent.latency
            if unit == _ARRAY:
                self.drained = finished
                if name == "MATMUL_SOFTMAX" or not instruction.variant & 2:
                    early = finished
            else:
                early = finished
            counters[_BUSY + unit] += cycles
            for place, value in enumerate(spent.sums, _MACS):
                counters[place] += value
            counters[_INSTRUCTIONS] += 1
            if unit not in self._first:
                self._first[unit] = start
        self.end = max(self.end, finished)
        first, second = instruction.signals
        if first:
            self.tokens[first].append(early)
        if second:
            self.tokens[second].append(finished)

    def _cost(self, placed: Placed) -> _Cost:
        instruction = placed.instruction
        pitch = self._pitches[instruction["dram"]] if instruction.unit in ("load", "store") else 0
        key = (placed.address, pitch)
        if key not in self._costs:
            self._costs[key] = _Cost.of(cost(instruction, self.core, pitch))
        return self._costs[key]

    def _token(self, placed: Placed, semaphore: int) -> int:
        if not self.tokens[semaphore]:
            raise refused(placed, f"it waits for semaphore {semaphore}, which nothing before it signals")
        return self.tokens[semaphore].popleft()

    def _begin(self, operator: int, *, launch: bool) -> None:
        self.end_operator()
        if launch:
            self.issue = max(self.issue, self.end, self.drained, *self.free) + round(
                self.core.launch_seconds * self.core.clock_hertz * TICKS
            )
            self.end = max(self.end, self.issue)
            self.launched = set(range(len(UNITS)))
        self._operator = operator

    def end_operator(self) -> None:
        if self._operator >= 0:
            begun, counters = self._begun
            counts = _counts([now - past for now, past in zip(self.counters, counters, strict=True)])
            spans = {UNITS[unit]: (first / TICKS, self.free[unit] / TICKS) for unit, first in sorted(self._first.items())}
            name = self.program.operators[self._operator]
            self.operators.append(OperatorTime(name, (self.end - begun) / TICKS, spans, counts))
        self._begun = (self.end if self._operator >= 0 else 0, list(self.counters))
        self._first = {}


def _shift(old: list[int], new: list[int], *, issue_binds: bool) -> int | None:
    """By how much all times moved, but for those that did not move at all; None where they did otherwise.

    The issue time may move less where nothing waits for it: it falls behind ever more.
    """
    if len(old) != len(new) or old[1] != new[1]:
        return None
    differences = {second - first for first, second in zip(old[2:], new[2:], strict=True)} - {0}
    if len(differences) != 1:
        return None
    shift = differences.pop()
    issue = new[0] - old[0]
    if issue != shift and (issue_binds or issue > shift):
        return None
    return shift
