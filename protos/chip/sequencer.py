"""What the sequencer does with a program: its loops as a tree, its registers, the addresses that they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from protos.chip.instructions import ADVANCE, LEVELS, NONE, REGISTERS, SIZE_BYTES, Instruction
from protos.errors import Corrupt

_DEEPEST = LEVELS


@dataclass(frozen=True)
class Placed:
    """An instruction, its address in the program, and the operands whose rings go on behind it."""

    address: int
    instruction: Instruction
    advances: tuple[int, ...] = ()


@dataclass(frozen=True)
class Loop:
    """`body` is executed `count` times, with the index of `level` from 0 on, which is 0 again behind it."""

    address: int
    level: int
    count: int
    body: tuple[Placed | Loop, ...]


def tree(instructions: Sequence[Instruction]) -> tuple[Placed | Loop, ...]:
    """Raises Corrupt, naming the address, for loops that are not nested or do not end, and unless FINISH is the last."""
    stack: list[list[Placed | Loop]] = [[]]
    open_loops: list[Placed] = []
    for number, instruction in enumerate(instructions):
        placed = Placed(number * SIZE_BYTES, instruction, _advancing(instruction))
        if instruction.name == "LOOP":
            if instruction["level"] in [each.instruction["level"] for each in open_loops] or len(open_loops) >= _DEEPEST:
                raise refused(placed, f"level {instruction['level']} is in use")
            open_loops.append(placed)
            stack.append([])
        elif instruction.name == "END":
            if not open_loops or open_loops[-1].instruction["level"] != instruction["level"]:
                raise refused(placed, "it ends no loop")
            begun, body = open_loops.pop(), tuple(stack.pop())
            stack[-1].append(Loop(begun.address, begun.instruction["level"], begun.instruction["count"], body))
        else:
            stack[-1].append(placed)
    if open_loops:
        raise refused(open_loops[-1], "the loop does not end")
    names = [instruction.name for instruction in instructions]
    if not names or names[-1] != "FINISH" or "FINISH" in names[:-1]:
        last = Placed(max(len(names) - 1, 0) * SIZE_BYTES, Instruction("FINISH"))
        raise refused(last, "a program ends with FINISH, which is nowhere else")
    return tuple(stack[0])


def refused(placed: Placed, why: str) -> Corrupt:
    return Corrupt(
        f"instruction at {placed.address:#06x}: {placed.instruction.name}: {why}",
        advice="the program breaks a rule of docs/isa.md: compile it again",
    )


@dataclass
class Register:
    """Stands for base + slot x slot_bytes + the sum of each loop index times its step."""

    base: int = 0
    pitch: int = 0
    steps: dict[int, int] = field(default_factory=dict)
    slots: int = 0
    slot_bytes: int = 0
    slot: int = 0


class Registers:
    """All of them, and the loop indices."""

    def __init__(self) -> None:
        self.all = [Register() for _ in range(REGISTERS)]
        self.indices = [0] * LEVELS

    def address(self, operand: int) -> int:
        register = self.all[operand & NONE]
        found = register.base + register.slot * register.slot_bytes
        for level, size in register.steps.items():
            found += self.indices[level] * size
        return found

    def pitch(self, operand: int) -> int:
        return self.all[operand & NONE].pitch

    def execute(self, instruction: Instruction) -> None:
        """SET, STEP, RING and NEXT; all others are none of its business."""
        match instruction.name:
            case "SET":
                number, base, pitch = (int(value) for value in instruction.values)
                old = self.all[number]
                kept = (old.slots, old.slot_bytes, old.slot) if instruction.has("keep_ring") else (0, 0, 0)
                self.all[number] = Register(base, pitch, {}, *kept)
            case "STEP":
                number, level, size = (int(value) for value in instruction.values)
                self.all[number].steps[level] = size
            case "RING":
                number, slots, slot_bytes = (int(value) for value in instruction.values)
                register = self.all[number]
                register.slots, register.slot_bytes, register.slot = slots, slot_bytes, 0
            case "NEXT":
                number, count = (int(value) for value in instruction.values)
                for each in range(number, min(number + count, REGISTERS)):
                    self.advance(each)
            case _:
                pass

    def advance(self, operand: int) -> None:
        register = self.all[operand & NONE]
        if register.slots:
            register.slot = (register.slot + 1) % register.slots


def _advancing(instruction: Instruction) -> tuple[int, ...]:
    pairs = zip(instruction.form.fields, instruction.values, strict=True)
    return tuple(int(value) for form, value in pairs if form.kind == "operand" and int(value) & ADVANCE)


def instructions_of(body: Sequence[Placed | Loop]) -> Iterator[Placed]:
    """All within, each once."""
    for node in body:
        if isinstance(node, Loop):
            yield from instructions_of(node.body)
        else:
            yield node
