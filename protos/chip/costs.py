"""What one instruction costs a core: cycles of its unit, bytes, multiply-accumulates; from the instruction alone.

Stall-free cycles of a weight-stationary tile are its weights' rows, and then rows + R + C - 2 of the arrays; of an output-stationary one
K + R + C - 2 (SCALE-Sim, arXiv:1811.02883, whose totals count one cycle less). With `stream` the R + C - 2 pass while the next tile enters.
"""

from __future__ import annotations

from dataclasses import dataclass

from protos.chip.core import Core
from protos.chip.instructions import IN_ACCUMULATORS, NONE, Instruction

# Passes that a vector operation makes over its elements; one where nothing is said. exp and its like take four steps of a polynomial.
_PASSES = {
    **dict.fromkeys(("exp", "silu", "gelu", "sigmoid", "rsqrt", "reciprocal"), 4),
    **dict.fromkeys(("turn", "turn_halves", "to_levels", "expand"), 2),
}
_QUANT_PASSES, _NORM_QUANT_PASSES = 2, 3  # largest magnitude, levels; mean square before them
_SOFTMAX_PASSES = 2  # over each row of scores as it leaves the arrays: largest, exp and sum
_VECTOR_PIPELINE = 8  # cycles
_WEIGHT_BYTES = {"u8": 1.0, "u4": 0.5, "s8": 1.0, "f16": 2.0, "f32": 4.0}


@dataclass(frozen=True)
class Cost:
    """`cycles` the unit is taken, and `latency` more until the result is there. Bytes of DRAM are what its bursts move."""

    cycles: float = 0.0
    latency: float = 0.0
    macs: int = 0
    float_macs: int = 0
    sram_bytes: float = 0.0
    dram_bytes: int = 0


def cost(instruction: Instruction, core: Core, dram_pitch: int = 0) -> Cost:
    """`dram_pitch`: of the register of DRAM, for a transfer."""
    match instruction.name:
        case "LOAD" | "STORE" | "GATHER_LOAD":
            gathers = instruction.name == "GATHER_LOAD"
            return _transfer(core, instruction["rows"], instruction["bytes"], 1 << 40 if gathers else dram_pitch)
        case "PRELOAD":
            return _preload(instruction, core)
        case "GEMM" | "MATMUL_SOFTMAX":
            return _product(instruction, core)
        case "DEQUANT":
            rows, width = instruction["rows"], instruction["width"]
            return Cost(rows * -(-width // core.width), _VECTOR_PIPELINE, sram_bytes=12.0 * rows * width + 4 * (rows + width))
        case "QUANT" | "NORM_QUANT":
            elements = instruction["rows"] * instruction["columns"]
            passes = _QUANT_PASSES if instruction.name == "QUANT" else _NORM_QUANT_PASSES
            return Cost(passes * -(-elements // core.lanes), _VECTOR_PIPELINE, sram_bytes=(4.0 * passes + 1) * elements)
        case "VEC":
            return _vector(instruction, core)
        case _:
            return Cost()


def _transfer(core: Core, rows: int, size: int, pitch: int) -> Cost:
    """Rows that follow one another are one long one."""
    bursts = -(-rows * size // core.burst_bytes) if pitch in (0, size) or rows == 1 else rows * -(-size // core.burst_bytes)
    moved, latency = bursts * core.burst_bytes, core.dma_seconds * core.clock_hertz
    passing = moved / core.bytes_per_cycle
    return Cost(max(passing, latency / core.dma_channels), latency, sram_bytes=float(rows * size), dram_bytes=moved)


def _preload(instruction: Instruction, core: Core) -> Cost:
    """A row of weights enters all arrays in a cycle for each byte of a weight; an output-stationary array streams them as it computes."""
    depth, width = instruction["depth"], instruction["width"]
    item = _WEIGHT_BYTES[instruction.kind.partition("_")[0]]
    cycles = min(depth, core.rows) * max(item, 1.0) if core.dataflow == "weight-stationary" else 1.0
    return Cost(cycles, sram_bytes=item * depth * width)


def _product(instruction: Instruction, core: Core) -> Cost:
    rows, depth, width = (instruction[name] for name in ("rows", "depth", "width"))
    softmax = instruction.name == "MATMUL_SOFTMAX"
    floats = softmax or instruction.has("float")
    factor, item = (core.float_cycles, 4) if floats else (1, 1)
    if core.dataflow == "weight-stationary":
        cycles = rows * factor
    else:
        tiles = -(-rows // core.rows) * -(-width // core.columns)
        side_by_side = max(core.arrays // tiles, 1)  # arrays that share a tile's inputs
        cycles = -(-tiles // core.arrays) * -(-depth // side_by_side) * factor
    more = _SOFTMAX_PASSES * rows * -(-width // core.width) if softmax else 0
    macs, sums = rows * depth * width, 4.0 * rows * width
    read = float(item * rows * depth * -(-width // core.columns))
    return Cost(
        cycles + more,
        core.rows + core.columns - 2,
        macs=0 if floats else macs,
        float_macs=macs if floats else 0,
        sram_bytes=read + sums,
    )


def _vector(instruction: Instruction, core: Core) -> Cost:
    to, a, b, rows, columns = (int(value) for value in instruction.values[:5])
    kind = instruction.kind
    lanes = core.width if any(operand & IN_ACCUMULATORS and operand != NONE for operand in (to, a, b)) else core.lanes
    passes = int(instruction.values[5]) if kind == "top" else _PASSES.get(kind, 1)
    elements = rows * columns
    operands = sum(operand != NONE for operand in (to, a, b))
    return Cost(passes * -(-elements // lanes), _VECTOR_PIPELINE, sram_bytes=4.0 * operands * elements)
