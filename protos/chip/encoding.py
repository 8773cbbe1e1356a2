"""Instructions to bytes and back; what no machine could execute is refused with its address."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable

from protos.chip.instructions import (
    BY_CODE,
    FIELD_BYTES,
    FORMATS,
    NONE,
    SIZE_BYTES,
    Field,
    Format,
    Instruction,
)
from protos.errors import Corrupt

_FIELDS_AT = 4


def encode(instructions: Iterable[Instruction]) -> bytes:
    """16 bytes each. Raises Corrupt, naming the address, for fields that do not fit."""
    data = bytearray()
    for instruction in instructions:
        if (why := refusal(instruction)) is not None:
            raise _bad(len(data), why)
        data += _encoded(instruction)
    return bytes(data)


def decode(data: bytes) -> tuple[Instruction, ...]:
    """Raises Corrupt with the address of the first instruction that is none."""
    if len(data) % SIZE_BYTES:
        raise _bad(len(data) // SIZE_BYTES * SIZE_BYTES, "is cut short")
    return tuple(_decoded(data, address) for address in range(0, len(data), SIZE_BYTES))


def refusal(instruction: Instruction) -> str | None:
    """Why it cannot be encoded; None where it can."""
    form = FORMATS.get(instruction.name)
    if form is None:
        return f"unknown operation {instruction.name!r}"
    if (why := _variant_refusal(form, instruction.variant)) is not None:
        return why
    if not all(0 <= number < 16 for number in (*instruction.waits, *instruction.signals)):
        return "semaphores are 0 to 15"
    if form.unit == "sequencer" and instruction.name not in ("SYNC", "FETCH") and (any(instruction.waits) or any(instruction.signals)):
        return f"{instruction.name} neither waits nor signals"
    if len(instruction.values) != len(form.fields):
        return f"{instruction.name} has {len(form.fields)} fields"
    for field, value in zip(form.fields, instruction.values, strict=True):
        if (why := _field_refusal(field, value)) is not None:
            return why
    return None


def _variant_refusal(form: Format, variant: int) -> str | None:
    most = len(form.variants) - 1 if form.variants else (1 << len(form.flags)) - 1
    return None if 0 <= variant <= max(most, 0) else f"unknown variant {variant}"


def _field_refusal(field: Field, value: int | float) -> str | None:
    if field.kind == "f4":
        return None if _is_float32(value) else f"{field.name} is no float32"
    if not isinstance(value, int):
        return f"{field.name} is no whole number"
    bits = 8 * FIELD_BYTES[field.kind]
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if field.kind == "s6" else (field.lowest, (1 << bits) - 1)
    high = high if field.highest is None else field.highest
    if not low <= value <= high:
        return f"{field.name} {value} is not within {low} and {high}"
    if field.kind == "operand" and value & NONE == NONE and value != NONE:
        return f"{field.name} is no operand and has flags"
    return None


def _is_float32(value: float) -> bool:
    try:
        return math.isfinite(value) and struct.unpack("<f", struct.pack("<f", value)) == (value,)
    except OverflowError:
        return False


def _encoded(instruction: Instruction) -> bytes:
    waits, signals = instruction.waits, instruction.signals
    form = FORMATS[instruction.name]
    data = bytearray((form.code, waits[0] | waits[1] << 4, signals[0] | signals[1] << 4, instruction.variant))
    for field, value in zip(form.fields, instruction.values, strict=True):
        if field.kind == "f4":
            data += struct.pack("<f", value)
        else:
            data += int(value).to_bytes(FIELD_BYTES[field.kind], "little", signed=field.kind == "s6")
    return bytes(data.ljust(SIZE_BYTES, b"\0"))


def _decoded(data: bytes, address: int) -> Instruction:
    name = BY_CODE.get(data[address])
    if name is None:
        raise _bad(address, f"unknown operation {data[address]:#04x}")
    at, values = address + _FIELDS_AT, []
    for field in FORMATS[name].fields:
        size = FIELD_BYTES[field.kind]
        piece = data[at : at + size]
        at += size
        values.append(struct.unpack("<f", piece)[0] if field.kind == "f4" else int.from_bytes(piece, "little", signed=field.kind == "s6"))
    if any(data[at : address + SIZE_BYTES]):
        raise _bad(address, f"{name} has bytes set that mean nothing")
    waits, signals = ((byte & 15, byte >> 4) for byte in data[address + 1 : address + 3])
    instruction = Instruction(name, tuple(values), data[address + 3], waits, signals)
    if (why := refusal(instruction)) is not None:
        raise _bad(address, why)
    return instruction


def _bad(address: int, why: str) -> Corrupt:
    return Corrupt(f"instruction at {address:#06x}: {why}", advice="the program is damaged, or of another version: compile it again")
