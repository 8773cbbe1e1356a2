"""Messages that nobody of ours would send: made from the descriptors, or from good ones by a defect on the wire. All by one seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

INTEGERS = (0, 1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**31), -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e300, math.inf, -math.inf, math.nan, 5e-324)
TEXTS = ("", "x", "a" * 64, "0" * 64, "../../etc/passwd", "/dev/zero", "127.0.0.1:1", "a:b:c", "\x00", "\u202e", "é" * 500, "y" * 20_000)
MOST_DEEP, MOST_MANY = 6, 50


class Fuzzer:
    """`known` are texts and integers that mean something to whoever is fuzzed: names and digests of what it holds."""

    def __init__(self, dice: random.Random, known: Sequence[str | int]) -> None:
        self._dice = dice
        self._texts = [one for one in known if isinstance(one, str)]
        self._integers = [one for one in known if isinstance(one, int)]

    def message(self, kind: type[Message], good: Sequence[bytes]) -> bytes:
        """One, of `kind` or none: half of them from `good` ones."""
        if good and self._dice.random() < 0.5:
            data = self._dice.choice(good)
            if self._dice.random() < 0.4:  # well formed, and with another value somewhere
                return self._changed(kind, data)
        else:
            data = bytes(self._made(kind.DESCRIPTOR, 0).SerializeToString())
            if self._dice.random() < 0.5:
                return data
        for _ in range(self._dice.choice([1, 1, 1, 2, 5])):
            data = self._dice.choice(DEFECTS)(self._dice, data)
        return data

    def _changed(self, kind: type[Message], data: bytes) -> bytes:
        message: Any = kind.FromString(data)
        for _ in range(self._dice.choice([1, 1, 2])):
            where = message
            while True:
                field = self._dice.choice(list(where.DESCRIPTOR.fields) or [None])
                if field is None:
                    break
                if field.message_type is not None and not field.is_repeated and where.HasField(field.name) and self._dice.random() < 0.8:
                    where = getattr(where, field.name)
                    continue
                where.ClearField(field.name)
                self._fill(where, field, 2)
                break
        return bytes(message.SerializeToString())

    def _made(self, descriptor: Any, depth: int) -> Any:
        message = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if self._dice.random() < 0.6:
                self._fill(message, field, depth)
        return message

    def _fill(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        count = self._dice.choice([0, 1, 1, 2, MOST_MANY]) if field.is_repeated else 1
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return
        for _ in range(count if depth < MOST_DEEP else 0):
            if field.message_type is not None:
                made = self._made(field.message_type, depth + 1)
                target = getattr(message, field.name)
                target.append(made) if field.is_repeated else target.CopyFrom(made)
            elif field.is_repeated:
                getattr(message, field.name).append(self._value(field))
            else:
                setattr(message, field.name, self._value(field))

    def _value(self, field: FieldDescriptor) -> Any:
        kinds = FieldDescriptor
        match field.cpp_type:
            case kinds.CPPTYPE_STRING if field.type == kinds.TYPE_BYTES:
                return self._dice.randbytes(self._dice.choice([0, 1, 16, 64, 4096]))
            case kinds.CPPTYPE_STRING:
                return self._dice.choice([*TEXTS, *self._texts, *self._texts])
            case kinds.CPPTYPE_BOOL:
                return self._dice.random() < 0.5
            case kinds.CPPTYPE_DOUBLE | kinds.CPPTYPE_FLOAT:
                return self._dice.choice(FLOATS)
            case kinds.CPPTYPE_ENUM:
                return self._dice.choice([0, 1, 2, 99])
        low, high = {
            kinds.CPPTYPE_INT32: (-(2**31), 2**31),
            kinds.CPPTYPE_UINT32: (0, 2**32),
            kinds.CPPTYPE_INT64: (-(2**63), 2**63),
            kinds.CPPTYPE_UINT64: (0, 2**64),
        }[field.cpp_type]
        return self._dice.choice([one for one in [*INTEGERS, *self._integers, *self._integers] if low <= one < high])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _flip(dice: random.Random, data: bytes) -> bytes:
    return changed_bit(data, dice.randrange(8 * len(data))) if data else b"\xff"


def changed_bit(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def _truncate(dice: random.Random, data: bytes) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def _repeat(dice: random.Random, data: bytes) -> bytes:
    start = dice.randrange(len(data) + 1)
    return data + data[start : start + 200] * dice.choice([1, 3])


def _shuffle(dice: random.Random, data: bytes) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[at:] + data[:at]


def _huge_length(dice: random.Random, data: bytes) -> bytes:
    """A field that says it has more bytes than there are."""
    number, size = dice.randrange(1, 32), dice.choice([2**20, 2**31 - 1, 2**32, 2**63])
    return data + _varint(number << 3 | 2) + _varint(size) + data[:20]


def _nested(dice: random.Random, data: bytes) -> bytes:
    """A message in a message in a message …"""
    tag = _varint(dice.randrange(1, 32) << 3 | 2)
    for _ in range(dice.choice([20, 200])):
        data = tag + _varint(len(data)) + data
    return data


def _groups(dice: random.Random, data: bytes) -> bytes:
    return data + _varint(dice.randrange(1, 32) << 3 | 3) * dice.choice([1, 50, 10_000])


def _other_type(dice: random.Random, data: bytes) -> bytes:
    """The first field, said to be of another kind."""
    return bytes([data[0] & 0xF8 | dice.randrange(8), *data[1:]]) if data else data


def _noise(dice: random.Random, _data: bytes) -> bytes:
    return dice.randbytes(dice.choice([1, 10, 1000]))


DEFECTS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_flip, _flip, _truncate, _repeat, _shuffle, _huge_length, _nested, _groups, _other_type, _noise),
)
