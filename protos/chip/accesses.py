"""Which bytes of which memory an instruction reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from protos.chip.instructions import IN_ACCUMULATORS, NONE, PER_ROW, Instruction
from protos.chip.sequencer import Registers

Memory = Literal["scratchpad", "accumulators", "dram", "banks"]
_ITEM = {"u8": 1, "s8": 1, "f16": 2, "f32": 4}
_STATE_WIDTH = 12


@dataclass(frozen=True, slots=True)
class Access:
    """Bytes [start, stop) of a memory, from the first row's begin to the last row's end."""

    memory: Memory
    start: int
    stop: int
    writes: bool
    field: str


def accesses(instruction: Instruction, registers: Registers) -> Iterator[Access]:
    """As the registers stand. What a sum is added onto counts as written alone: the same unit made it, in its order."""

    def at(field: str, rows: int, size: int, *, writes: bool = False) -> Iterator[Access]:
        operand = instruction[field]
        if operand & NONE == NONE:
            return
        start, pitch = registers.address(operand), registers.pitch(operand)
        memory: Memory = "accumulators" if operand & IN_ACCUMULATORS else "scratchpad"
        yield Access(memory, start, start + (rows - 1) * pitch + (4 if operand & PER_ROW else size), writes, field)

    def dram(rows: int, size: int, *, writes: bool) -> Access:
        register = instruction["dram"]
        start = registers.address(register)
        return Access("dram", start, start + (rows - 1) * registers.pitch(register) + size, writes, "dram")

    match instruction.name:
        case "LOAD":
            rows, size = instruction["rows"], instruction["bytes"]
            yield dram(rows, size, writes=False)
            yield from at("to", rows, size, writes=True)
        case "STORE":
            rows, size = instruction["rows"], instruction["bytes"]
            yield from at("source", rows, size)
            yield dram(rows, size, writes=True)
        case "GATHER_LOAD":
            rows = instruction["rows"]
            yield dram(instruction["limit"], instruction["bytes"], writes=False)
            yield from at("places", 1, 4 * rows)
            yield from at("to", rows, instruction["bytes"], writes=True)
        case "FETCH":
            yield from at("source", 1, 4)
        case "PRELOAD":
            yield from _preload(instruction, registers)
            bank = registers.address(instruction["bank"])
            yield Access("banks", bank, bank + 1, True, "bank")
        case "GEMM" | "MATMUL_SOFTMAX":
            softmax = instruction.name == "MATMUL_SOFTMAX"
            rows, depth, width = (instruction[name] for name in ("rows", "depth", "width"))
            item = 4 if softmax or instruction.has("float") else 1
            bank = registers.address(instruction["bank"])
            yield Access("banks", bank, bank + 1, False, "bank")
            yield from at("source", rows, depth * item)
            yield from at("state", rows, _STATE_WIDTH, writes=softmax)
            if softmax:
                yield from at("partial", rows, 4 * width)
            yield from at("to", rows, 4 * width, writes=True)
        case "DEQUANT":
            rows, width = instruction["rows"], instruction["width"]
            yield from at("source", rows, 4 * width)
            yield from at("row_scales", rows, 4)
            yield from at("column_scales", width, 4)
            yield from at("to", rows, 4 * width, writes=True)
        case "QUANT" | "NORM_QUANT":
            rows, columns = instruction["rows"], instruction["columns"]
            block = instruction["block"] if instruction.name == "QUANT" else int(instruction.kind.removeprefix("block"))
            blocks = -(-columns // block)
            yield from at("source", rows, 4 * columns)
            if instruction.name == "NORM_QUANT":
                yield from at("gain", 1, 4 * columns)
            yield from at("to", rows, blocks * block, writes=True)
            yield from at("scales", rows, 4 * blocks, writes=True)
        case "VEC":
            yield from _vector(instruction, at)
        case _:
            return


def _preload(instruction: Instruction, registers: Registers) -> Iterator[Access]:
    depth, width = instruction["depth"], instruction["width"]
    kind, _, by_depth = instruction.kind.partition("_")
    source, zeros = instruction["source"], instruction["zeros"]
    rows, size = (depth, width) if by_depth else (width, depth)
    row_bytes = size // 2 if kind == "u4" else size * _ITEM[kind]
    start, pitch = registers.address(source), registers.pitch(source)
    yield Access("scratchpad", start, start + (rows - 1) * pitch + row_bytes, False, "source")
    if zeros != NONE:
        start, pitch = registers.address(zeros) // 2, registers.pitch(zeros) // 2
        yield Access("scratchpad", start, start + (rows - 1) * pitch + 1, False, "zeros")


def _vector(instruction: Instruction, at: object) -> Iterator[Access]:
    assert callable(at)
    rows, columns, kind = instruction["rows"], instruction["columns"], instruction.kind
    immediate = int(instruction.values[5])
    row = 4 * columns
    match kind:
        case "fill":
            yield from at("to", rows, row, writes=True)
            return
        case "max" | "sum" | "mean" | "mean_square":
            sizes = (4, row, 0)
        case "turn" | "turn_halves":
            sizes = (row, row, row)
        case "mask_later" | "mask_unfilled":
            sizes = (row, row, 0)
        case "expand":
            sizes = (row, columns, 4 * -(-columns // max(immediate, 1)))
        case "top":
            sizes = (4 * immediate, row, 0)
        case "to_float16":
            sizes = (2 * columns, row, 0)
        case "to_levels":
            sizes = (columns, row, row)
        case _:
            sizes = (row, row, row)
    for field, size in zip(("a", "b", "to"), (sizes[1], sizes[2], sizes[0]), strict=True):
        if size:
            yield from at(field, rows, size, writes=field == "to")
