"""Writes instructions: registers, loops, and the semaphores by which the units of a core wait for one another.

Rings go on across operations: a slot's register is the same for all units that use it, as the sequencer sees instructions in their order.
Which semaphore says what: protos.chip.semaphores.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from protos.chip.core import Core
from protos.chip.instructions import (
    ADVANCE,
    FORMATS,
    IN_ACCUMULATORS,
    NONE,
    PER_ROW,
    REGISTERS,
    UNITS,
    Instruction,
    Unit,
)
from protos.chip.semaphores import BANK, FREE, PARAMETER, PARAMETER_FREE, ROOM, SEMAPHORES, STORED
from quantize.compiler.ir import Buffer, Shape, View
from quantize.compiler.tiling import Tiles

# Registers of rings. The first group goes on together, slot by slot.
LEVELS, SCALES, ZEROS, ZERO_BYTES = 0, 1, 2, 3
RING_GROUP = 4
BANK_RING, ROOM_RING = 4, 5
PARAMETERS, OTHER_PARAMETERS = 6, 7  # go on together
_FIRST_FREE = 8

# Indices of loops.
BLOCK, CHUNK, OUTPUTS, TOKEN, HEAD = 0, 1, 2, 3, 4


def accumulators(register: int) -> int:
    return register | IN_ACCUMULATORS


def per_row(register: int) -> int:
    return register | PER_ROW


def going_on(operand: int) -> int:
    return operand | ADVANCE


class Writer:
    """`dram` has the regions' addresses, `place` the buffers' in the scratchpad."""

    def __init__(self, core: Core, shape: Shape, tiles: Tiles, dram: Mapping[str, int], place: Mapping[str, int], ring_base: int) -> None:
        self.core = core
        self.shape = shape
        self.tiles = tiles
        self.instructions: list[Instruction] = []
        self.unread = False  # whether a STORED is on its way that nobody has waited for
        self._dram = dram
        self._place = place
        self._next = _FIRST_FREE
        self.parameter_base = ring_base
        self.ring_base = ring_base + tiles.parameter_slots * tiles.parameter_bytes

    @property
    def streaming(self) -> tuple[str, ...]:
        return ("stream",) if "stream" in self.core.mechanisms else ()

    @property
    def context_base(self) -> int:
        """In the accumulators, behind the room for sums."""
        return self.tiles.room_slots * self.tiles.room_bytes

    def emit(
        self,
        name: str,
        *values: int | float,
        kind: str = "",
        flags: Sequence[str] = (),
        waits: Sequence[int] = (),
        signals: Sequence[int] = (),
    ) -> None:
        form = FORMATS[name]
        variant = form.variants.index(kind) if form.variants else sum(1 << form.flags.index(flag) for flag in flags)
        self.instructions.append(Instruction(name, values, variant, _pair(waits), _pair(signals)))

    def sync(self, unit: Unit, *, waits: Sequence[int] = (), signals: Sequence[int] = ()) -> None:
        assert unit in UNITS
        self.emit("SYNC", kind=unit, waits=waits, signals=signals)

    @contextmanager
    def loop(self, level: int, count: int) -> Iterator[None]:
        """`count` times, with the index of `level` from 0 on; once needs no loop."""
        if count > 1:
            self.emit("LOOP", level, count)
        yield
        if count > 1:
            self.emit("END", level)

    def begin(self, operator: int, *, launch: bool) -> None:
        self.emit("BEGIN", operator, flags=("launch",) if launch else ())

    def fresh(self) -> None:
        """Registers of the operation before are free."""
        self._next = _FIRST_FREE

    def register(self, base: int, pitch: int = 0, steps: Mapping[int, int] | None = None) -> int:
        """A register with this address, so many bytes from row to row, and its steps by loop index."""
        number = self._next
        assert number < REGISTERS, "an operation uses more registers than there are"
        self._next += 1
        self.point(number, base, pitch, steps)
        return number

    def point(self, number: int, base: int, pitch: int = 0, steps: Mapping[int, int] | None = None) -> None:
        """Sets a register anew; one of a ring stays in its slot."""
        self.emit("SET", number, base, pitch, flags=("keep_ring",) if number < _FIRST_FREE else ())
        for level, size in (steps or {}).items():
            if size:
                self.emit("STEP", number, level, size)

    def view(self, view: View, steps: Mapping[int, int] | None = None, pitch: int | None = None) -> int:
        return self.register(self.at(view), view.buffer.pitch if pitch is None else pitch, steps)

    def buffer(self, buffer: Buffer, steps: Mapping[int, int] | None = None, offset: int = 0) -> int:
        return self.register(self._place[buffer.name] + offset, buffer.pitch, steps)

    def at(self, view: View | Buffer) -> int:
        return self._place[view.buffer.name] + view.offset if isinstance(view, View) else self._place[view.name]

    def workspace(self, step: int) -> int:
        return self._place[f"workspace {step}"]

    def dram(self, region: str) -> int:
        return self._dram[region]

    def vector(
        self,
        kind: str,
        to: int,
        a: int = NONE,
        b: int = NONE,
        rows: int = 1,
        columns: int = 1,
        immediate: float = 0.0,
        waits: Sequence[int] = (),
        signals: Sequence[int] = (),
    ) -> None:
        self.emit("VEC", to, a, b, rows, columns, as_float32(immediate), kind=kind, waits=waits, signals=signals)

    def parameters(self, *pieces: tuple[int, int, int, int, int]) -> Callable[[], None]:
        """Loads pieces (DRAM register, rows, bytes of each, offset in the slot, pitch there); the vector unit has to wait for PARAMETER.

        What is returned is called behind the last instruction that reads them, which has to signal PARAMETER_FREE.
        """
        for number, (source, rows, size, offset, pitch) in enumerate(pieces):
            self.point(PARAMETERS, self.parameter_base + offset, pitch)
            waits = (PARAMETER_FREE,) if number == 0 else ()
            signals = (PARAMETER,) if number == len(pieces) - 1 else ()
            self.emit("LOAD", source, PARAMETERS, rows, size, waits=waits, signals=signals)

        def done() -> None:
            self.emit("NEXT", PARAMETERS, 2)

        return done

    def parameter(self, offset: int = 0, pitch: int = 0, steps: Mapping[int, int] | None = None) -> int:
        """The operand that reads the slot which was loaded last."""
        self.point(PARAMETERS, self.parameter_base + offset, pitch, steps)
        return PARAMETERS

    def await_stored(self) -> None:
        """The vector unit may write over what was stored."""
        if self.unread:
            self.sync("vector", waits=(STORED,))
            self.unread = False

    def begin_rings(self) -> None:
        tiles = self.tiles
        for number in (LEVELS, SCALES, ZERO_BYTES):
            self.emit("RING", number, tiles.slots, tiles.slot_bytes)
        self.emit("RING", ZEROS, tiles.slots, 2 * tiles.slot_bytes)  # in half bytes
        self.emit("RING", BANK_RING, self.core.banks, 1)
        self.emit("RING", ROOM_RING, tiles.room_slots, tiles.room_bytes)
        for number in (PARAMETERS, OTHER_PARAMETERS):
            self.emit("RING", number, tiles.parameter_slots, tiles.parameter_bytes)
        self.emit("SET", BANK_RING, 0, 0, flags=("keep_ring",))
        for semaphore, count in self._credits():
            for _ in range(count):
                self.sync(SEMAPHORES[semaphore].signalled_by, signals=(semaphore,))

    def end_rings(self) -> None:
        for semaphore, count in self._credits():
            for _ in range(count):
                self.sync(SEMAPHORES[semaphore].waited_for_by, waits=(semaphore,))
        self.await_stored()
        self.emit("FINISH")

    def _credits(self) -> tuple[tuple[int, int], ...]:
        """Semaphores that say that room is free, and how much there is."""
        tiles = self.tiles
        return (FREE, tiles.slots), (BANK, self.core.banks), (ROOM, tiles.room_slots), (PARAMETER_FREE, tiles.parameter_slots)


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    first, second, *_ = (*numbers, 0, 0)
    return first, second


def as_float32(value: float) -> float:
    """The nearest that an instruction can hold."""
    found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return found
