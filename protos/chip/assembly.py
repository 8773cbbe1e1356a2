"""Programs as text that people read and write: one instruction a line, every field by its name.

0x0040  LOOP level=1 count=16
0x0050    PRELOAD.u8 wait=1,4 signal=3 source=r1 zeros=- bank=r3+ depth=128 width=2048
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from protos.chip.encoding import refusal
from protos.chip.instructions import (
    ADVANCE,
    FORMATS,
    IN_ACCUMULATORS,
    NONE,
    PER_ROW,
    SIZE_BYTES,
    Field,
    Instruction,
)
from protos.errors import InvalidInput

_OPERAND = re.compile(r"(acc:)?r(\d{1,2})(\.row)?(\+)?")
_COMMENT = "#"


def disassemble(instructions: Iterable[Instruction]) -> Iterator[str]:
    """A line each, with its address; bodies of loops are indented."""
    depth = 0
    for number, instruction in enumerate(instructions):
        depth -= instruction.name == "END"
        yield f"{number * SIZE_BYTES:#06x}  {'  ' * max(depth, 0)}{line(instruction)}"
        depth += instruction.name == "LOOP"


def line(instruction: Instruction) -> str:
    """Without its address."""
    form = instruction.form
    names = [form.variants[instruction.variant]] if form.variants else [name for name in form.flags if instruction.has(name)]
    words = [".".join([instruction.name, *names])]
    for what, numbers in (("wait", instruction.waits), ("signal", instruction.signals)):
        if any(numbers):
            words.append(f"{what}={numbers[0]},{numbers[1]}" if numbers[1] else f"{what}={numbers[0]}")
    words += [f"{field.name}={_shown(field, value)}" for field, value in zip(form.fields, instruction.values, strict=True)]
    return " ".join(words)


def assemble(text: str) -> tuple[Instruction, ...]:
    """The way back; addresses and comments (#) are skipped. Raises InvalidInput, naming the line."""
    found = []
    for number, written in enumerate(text.splitlines(), 1):
        words = written.partition(_COMMENT)[0].split()
        if words and words[0].startswith("0x"):
            words = words[1:]
        if not words:
            continue
        try:
            instruction = _parsed(words)
            why = refusal(instruction)
        except ValueError as error:
            why = str(error)
        if why is not None:
            raise InvalidInput(f"line {number}: {why}", advice="docs/isa.md has every operation with its fields")
        found.append(instruction)
    return tuple(found)


def _parsed(words: list[str]) -> Instruction:
    name, *chosen = words[0].split(".")
    if name not in FORMATS:
        raise ValueError(f"unknown operation {name[:30]!r}")
    form = FORMATS[name]
    given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    if len(given) != len(words) - 1:
        raise ValueError("fields are written name=value, each once")
    variant = 0
    if form.variants:
        if len(chosen) != 1 or chosen[0] not in form.variants:
            raise ValueError(f"{name} is written with one of: {', '.join(form.variants)}")
        variant = form.variants.index(chosen[0])
    else:
        for flag in chosen:
            if flag not in form.flags:
                raise ValueError(f"{name} has no {flag[:30]!r}")
            variant |= 1 << form.flags.index(flag)
    waits, signals = (_pair(given.pop(what, "0")) for what in ("wait", "signal"))
    if given.keys() != {field.name for field in form.fields}:
        raise ValueError(f"{name} has the fields {', '.join(field.name for field in form.fields) or 'none'}")
    values = tuple(_value(field, given[field.name]) for field in form.fields)
    return Instruction(name, values, variant, waits, signals)


def _shown(field: Field, value: int | float) -> str:
    if field.kind == "f4":
        return repr(float(value))
    if field.kind != "operand":
        return str(value)
    number = int(value)
    if number & NONE == NONE:
        return "-"
    parts = ("acc:" if number & IN_ACCUMULATORS else "", f"r{number & NONE}", ".row" if number & PER_ROW else "")
    return "".join(parts) + ("+" if number & ADVANCE else "")


def _value(field: Field, text: str) -> int | float:
    if field.kind == "f4":
        return float(text)
    if field.kind != "operand":
        return int(text)
    if text == "-":
        return NONE
    match = _OPERAND.fullmatch(text)
    if match is None:
        raise ValueError(f"{field.name} is no operand: {text[:30]!r}")
    accumulators, register, per_row, advance = match.groups()
    return int(register) | IN_ACCUMULATORS * bool(accumulators) | PER_ROW * bool(per_row) | ADVANCE * bool(advance)


def _pair(text: str) -> tuple[int, int]:
    first, _, second = text.partition(",")
    return int(first), int(second or 0)
