"""The instruction set as data: what each operation is called, which unit executes it, and where its fields lie in 16 bytes.

    byte 0      operation
    byte 1      semaphores that it waits for: two of 4 bits, 0 is none
    byte 2      semaphores that it signals when it has ended, likewise
    byte 3      variant: one of a list, or a set of flags
    bytes 4-15  fields, little-endian, in the order of `Format.fields`; bytes that none covers are 0

Five units take instructions in program order from queues of their own: `load`, `weights`, `array`, `vector` (three that compute) and
`store`. Between units semaphores alone order anything. The sequencer executes the rest itself: registers and loops.
docs/isa.md says what each does. Sources of the form: VTA (apache/tvm-vta, hw_spec.h), Gemmini's README.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SIZE_BYTES = 16
REGISTERS = 31  # and number 31, which is no operand
NONE = 31
LEVELS = 8  # of loop indices
FETCHED, SEQUENCE, POSITION = 5, 6, 7  # indices that no LOOP counts, or that have a meaning for the machine
SEMAPHORES = 16  # 0 is none
BANKS = 2  # of weights in the arrays; the second is the shadow bank

Unit = Literal["sequencer", "load", "weights", "array", "vector", "store"]
UNITS: tuple[Unit, ...] = ("load", "weights", "array", "vector", "store")

# Kinds of fields: unsigned and signed integers by their bytes, a float32, and an operand: a register (5 bits) with flags.
FieldKind = Literal["u1", "u2", "u3", "u4", "u6", "s6", "f4", "operand"]
FIELD_BYTES: Mapping[FieldKind, int] = {"u1": 1, "u2": 2, "u3": 3, "u4": 4, "u6": 6, "s6": 6, "f4": 4, "operand": 1}
# Of an operand: in the accumulators and not in the scratchpad; one element for each row; its ring goes on behind this instruction.
IN_ACCUMULATORS, PER_ROW, ADVANCE = 0x20, 0x40, 0x80


@dataclass(frozen=True)
class Field:
    name: str
    kind: FieldKind
    lowest: int = 0
    highest: int | None = None  # None: what the bytes hold


@dataclass(frozen=True)
class Format:
    """Of one operation. `variants` are names for byte 3 from 0 on, `flags` names for its bits from the lowest."""

    code: int
    unit: Unit
    fields: tuple[Field, ...] = ()
    variants: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


def _register(name: str = "register") -> Field:
    return Field(name, "u1", 0, REGISTERS - 1)


def _level(highest: int = LEVELS - 1) -> Field:
    return Field("level", "u1", 0, highest)


def _operands(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, "operand") for name in names)


def _size(name: str, kind: FieldKind = "u2") -> Field:
    return Field(name, kind, 1)


# What the vector unit makes of its operands, element by element unless said.
VECTOR_OPERATIONS = (
    "fill",  # the immediate
    "copy",  # a
    "add",  # a + b
    "subtract",  # a - b
    "multiply",  # a x b
    "scale",  # a x immediate
    "silu",  # a / (1 + exp(-a))
    "gelu",  # a x the normal distribution's share below a
    "sigmoid",  # 1 / (1 + exp(-a))
    "exp",  # exp(a - b)
    "rsqrt",  # 1 / sqrt(a + immediate)
    "reciprocal",  # 1 / (a + immediate)
    "max",  # of each row, one element
    "sum",  # of each row, one element
    "mean",  # of each row, one element
    "mean_square",  # of each row, one element
    "turn",  # pairs (2i, 2i + 1) by b: cosines, then sines
    "turn_halves",  # pairs half of the columns apart
    "mask_later",  # a, or -1e30 in columns of positions behind the row's own
    "mask_unfilled",  # a, or -1e30 in columns of positions that the cache does not hold yet
    "expand",  # bytes a - 128, times scales b, one for each `immediate` columns
    "top",  # places (int32) of the `immediate` largest of each row of a, the largest first, equal ones by their places
    "gather",  # a[b], b being places (int32)
    "scatter",  # a into the places b (int32) of a row that keeps its others
    "to_float16",  # two bytes an element
    "to_levels",  # int8: a / b rounded, within -127 and 127
)

FORMATS: Mapping[str, Format] = {
    # The sequencer's.
    "BEGIN": Format(0x01, "sequencer", (Field("operator", "u4"),), flags=("launch",)),
    "SET": Format(0x02, "sequencer", (_register(), Field("base", "u6"), Field("pitch", "u4")), flags=("keep_ring",)),
    "STEP": Format(0x03, "sequencer", (_register(), _level(), Field("bytes", "s6"))),
    "RING": Format(0x04, "sequencer", (_register(), Field("slots", "u2"), Field("slot_bytes", "u4"))),
    "NEXT": Format(0x05, "sequencer", (_register(), _size("count", "u1"))),
    "LOOP": Format(0x06, "sequencer", (_level(SEQUENCE), _size("count", "u4"))),
    "END": Format(0x07, "sequencer", (_level(SEQUENCE),)),
    "FETCH": Format(0x08, "sequencer", (Field("source", "operand"), _size("limit", "u4"))),
    "FINISH": Format(0x09, "sequencer"),
    # Between DRAM and scratchpad: `rows` of `bytes` each, as far apart as the registers' pitches say.
    "LOAD": Format(0x10, "load", (_register("dram"), *_operands("to"), _size("rows", "u4"), _size("bytes", "u4"))),
    "STORE": Format(0x11, "store", (*_operands("source"), _register("dram"), _size("rows", "u4"), _size("bytes", "u4"))),
    "GATHER_LOAD": Format(
        0x12, "load", (_register("dram"), *_operands("places", "to"), _size("rows", "u2"), _size("bytes", "u3"), _size("limit", "u4"))
    ),
    # The arrays' weights, [width][depth] in the scratchpad, or [depth][width] where by_depth.
    "PRELOAD": Format(
        0x20,
        "weights",
        (*_operands("source", "zeros", "bank"), _size("depth"), _size("width")),
        variants=("u8", "u4", "s8", "f16", "f32", "s8_by_depth", "f16_by_depth", "f32_by_depth"),
    ),
    "GEMM": Format(
        0x21,
        "array",
        (*_operands("source", "bank", "to", "state"), _size("rows"), _size("depth"), _size("width")),
        flags=("accumulate", "stream", "float", "rescale"),
    ),
    "MATMUL_SOFTMAX": Format(
        0x22,
        "array",
        (*_operands("source", "bank", "partial", "state", "to"), _register("first"), _size("rows"), _size("depth"), _size("width")),
        flags=("accumulate", "own", "causal"),
    ),
    "DEQUANT": Format(0x30, "vector", (*_operands("source", "row_scales", "column_scales", "to"), _size("rows"), _size("width"))),
    "QUANT": Format(0x31, "vector", (*_operands("source", "to", "scales"), _size("rows"), _size("columns", "u3"), _size("block"))),
    "NORM_QUANT": Format(
        0x32,
        "vector",
        (*_operands("source", "gain", "to", "scales"), _size("rows"), _size("columns"), Field("epsilon", "f4")),
        variants=("block32", "block64", "block128"),
    ),
    "VEC": Format(
        0x33,
        "vector",
        (*_operands("to", "a", "b"), _size("rows"), _size("columns", "u3"), Field("immediate", "f4")),
        variants=VECTOR_OPERATIONS,
    ),
    # Nothing but its semaphores, in one unit's queue.
    "SYNC": Format(0x40, "sequencer", variants=UNITS),
}
BY_CODE: Mapping[int, str] = {form.code: name for name, form in FORMATS.items()}
_PLACES = {name: {field.name: place for place, field in enumerate(form.fields)} for name, form in FORMATS.items()}
# Those that a core may lack.
CODESIGNED = ("MATMUL_SOFTMAX", "NORM_QUANT", "GATHER_LOAD")


@dataclass(frozen=True, slots=True)
class Instruction:
    """`values` are those of the format's fields in their order; `variant` is byte 3.

    >>> Instruction("LOOP", (2, 16))["count"]
    16
    """

    name: str
    values: tuple[int | float, ...] = ()
    variant: int = 0
    waits: tuple[int, int] = (0, 0)
    signals: tuple[int, int] = (0, 0)

    @property
    def form(self) -> Format:
        return FORMATS[self.name]

    @property
    def unit(self) -> Unit:
        return UNITS[self.variant] if self.name == "SYNC" else FORMATS[self.name].unit

    def __getitem__(self, field: str) -> int:
        """An integer field by name. Raises KeyError."""
        return int(self.values[_PLACES[self.name][field]])

    def has(self, flag: str) -> bool:
        """Whether a flag of the variant is set."""
        return bool(self.variant >> self.form.flags.index(flag) & 1)

    @property
    def kind(self) -> str:
        """The variant's name, of an operation that has them."""
        return self.form.variants[self.variant]
