"""Runs a program: int8 levels and int32 sums are exact, all else is float32; a tile at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.chip.core import Core
from protos.chip.instructions import FETCHED, IN_ACCUMULATORS, NONE, PER_ROW, POSITION, SEQUENCE, Instruction
from protos.chip.program import Program
from protos.chip.sequencer import Loop, Placed, Registers, refused, tree
from protos.errors import InvalidInput
from sim_devices.chip import vector_unit as unit
from sim_devices.chip.memory import Bytes, Dram, Item, look
from sim_devices.chip.vector_unit import Floats


@dataclass(frozen=True)
class Seen:
    """What a quantization or an integer product was given and made: float32 rows and int8 levels, or int8 rows, the weights [depth, width]
    that the arrays held, and int32 sums. `operator` is the number of the operation that it belongs to."""

    operator: int
    placed: Placed
    given: npt.NDArray[np.generic]
    weights: Floats | None
    made: npt.NDArray[np.generic]


Watch = Callable[[Seen], None]

_TYPES: Mapping[str, type[np.uint8 | np.int8 | np.float16 | np.float32]] = {
    "u8": np.uint8,
    "s8": np.int8,
    "f16": np.float16,
    "f32": np.float32,
}


class Machine:
    """One core with its memories, which keeps its caches from run to run. Raises InvalidInput for a program of another core.

    Sums of int8 products of a block of 128 stay below 2^24, so that float32 multiplies them exactly; they are kept as int32.
    """

    def __init__(self, program: Program, core: Core, weights: Mapping[str, Bytes], watch: Watch | None = None) -> None:
        program.check_core(core)
        self._target = program.target
        self._body = tree(program.instructions)
        self.dram = Dram(program.regions, weights)
        self._scratchpad = np.zeros(max(core.scratchpad_bytes, 1), np.uint8)
        self._accumulators = np.zeros(max(core.accumulator_bytes, 4), np.uint8)
        self._banks: dict[int, npt.NDArray[np.float32]] = {}
        self._registers = Registers()
        self._positions: Sequence[int] = ()
        self._watch = watch
        self._operator = 0

    @property
    def context(self) -> int:
        """Positions of its caches."""
        return self._target.context

    def run(self, positions: Sequence[int], inputs: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """One step: each sequence has `positions` rows in its caches already. Raises InvalidInput for what does not fit the program."""
        target = self._target
        if len(positions) != target.sequences or not all(0 <= at <= target.context - target.rows for at in positions):
            raise InvalidInput(
                f"the program takes {target.sequences} sequences of at most {target.context - target.rows} rows before {target.rows}"
            )
        for name, values in inputs.items():
            region, data = self.dram.region(name), np.ascontiguousarray(values).view(np.uint8).reshape(-1)
            if len(region) != len(data):
                raise InvalidInput(f"input {name} has {len(data)} bytes instead of {len(region)}")
            region[...] = data
        self._positions = positions
        self._registers = Registers()
        self._registers.indices[POSITION] = positions[0]
        self._run(self._body)

    def output(self, name: str, columns: int) -> npt.NDArray[np.float32]:
        """float32 [rows, columns]."""
        return self.dram.region(name).view(np.float32).reshape(-1, columns).copy()

    def _run(self, body: Sequence[Placed | Loop]) -> None:
        indices = self._registers.indices
        for node in body:
            if isinstance(node, Loop):
                for index in range(node.count):
                    indices[node.level] = index
                    if node.level == SEQUENCE:
                        indices[POSITION] = self._positions[index]
                    self._run(node.body)
                indices[node.level] = 0
                if node.level == SEQUENCE:
                    indices[POSITION] = self._positions[0]
            else:
                self._step(node)

    def _step(self, placed: Placed) -> None:
        instruction, registers = placed.instruction, self._registers
        match instruction.name:
            case "SET" | "STEP" | "RING" | "NEXT":
                registers.execute(instruction)
                return
            case "SYNC" | "FINISH":
                return
            case "BEGIN":
                self._operator = instruction["operator"]
                return
            case "FETCH":
                source, limit = (int(value) for value in instruction.values)
                number = int(self._rows(source, 1, 1, np.int32)[0, 0])
                if not 0 <= number < limit:
                    raise refused(placed, f"{number} is not within 0 and {limit - 1}")
                registers.indices[FETCHED] = number
            case "LOAD":
                dram, to, rows, size = (int(value) for value in instruction.values)
                self._rows(to, rows, size, np.uint8)[...] = self._dram(dram, rows, size)
            case "STORE":
                source, dram, rows, size = (int(value) for value in instruction.values)
                self._dram(dram, rows, size)[...] = self._rows(source, rows, size, np.uint8)
            case "GATHER_LOAD":
                self._gather(placed)
            case "PRELOAD":
                self._preload(instruction)
            case "GEMM":
                self._gemm(placed)
            case "MATMUL_SOFTMAX":
                self._matmul_softmax(instruction)
            case "DEQUANT":
                self._dequant(instruction)
            case "QUANT":
                source, to, scales, rows, columns, block = (int(value) for value in instruction.values)
                self._quantized(placed, self._floats(source, rows, columns).copy(), to, scales, block)
            case "NORM_QUANT":
                source, gain, to, scales, rows, columns = (int(value) for value in instruction.values[:6])
                normed = unit.norm(self._floats(source, rows, columns), self._floats(gain, 1, columns), instruction.values[6])
                self._quantized(placed, normed, to, scales, int(instruction.kind.removeprefix("block")))
            case "VEC":
                self._vector(instruction)
            case other:
                raise refused(placed, f"no machine knows {other}")
        for operand in placed.advances:
            registers.advance(operand)

    def _floats(self, operand: int, rows: int, columns: int) -> Floats:
        return self._rows(operand, rows, columns, np.float32)

    def _rows(self, operand: int, rows: int, columns: int, kind: type[Item]) -> npt.NDArray[Item]:
        """[rows, columns] at an operand's address: one element for each row where it says so."""
        registers = self._registers
        memory = self._accumulators if operand & IN_ACCUMULATORS else self._scratchpad
        if operand & PER_ROW:
            columns = 1
        return look(memory, registers.address(operand), (rows, columns), registers.pitch(operand), kind)

    def _dram(self, register: int, rows: int, size: int) -> Bytes:
        return self.dram.rows(self._registers.address(register), rows, size, self._registers.pitch(register))

    def _gather(self, placed: Placed) -> None:
        dram, places, to, rows, size, limit = (int(value) for value in placed.instruction.values)
        pitch, start = self._registers.pitch(dram), self._registers.address(dram)
        target = self._rows(to, rows, size, np.uint8)
        for row, number in enumerate(self._rows(places, 1, rows, np.int32)[0]):
            if not 0 <= number < limit:
                raise refused(placed, f"{number} is not within 0 and {limit - 1}")
            target[row] = self.dram.rows(start + int(number) * pitch, 1, size, size)[0]

    def _preload(self, instruction: Instruction) -> None:
        source, zeros, bank, depth, width = (int(value) for value in instruction.values)
        kind, _, by_depth = instruction.kind.partition("_")
        if by_depth:
            weights = self._rows(source, depth, width, _TYPES[kind]).astype(np.float32)
        elif kind == "u4":
            packed = self._rows(source, width, depth // 2, np.uint8)
            levels = np.empty((width, depth), np.float32)
            levels[:, 0::2], levels[:, 1::2] = packed & np.uint8(15), packed >> np.uint8(4)
            levels -= np.float32(8) if zeros == NONE else self._zero_points(zeros, width)
            weights = levels.T
        else:
            levels = self._rows(source, width, depth, _TYPES[kind]).astype(np.float32)
            if kind == "u8":
                levels -= np.float32(128)
            weights = levels.T
        self._banks[self._registers.address(bank)] = weights

    def _zero_points(self, operand: int, width: int) -> npt.NDArray[np.float32]:
        """Of 4 bits: this operand counts half bytes."""
        address, pitch = self._registers.address(operand), self._registers.pitch(operand)
        column = look(self._scratchpad, address // 2, (width, 1), pitch // 2, np.uint8)
        shifted: Bytes = column >> np.uint8(4 * (address % 2)) & np.uint8(15)
        return shifted.astype(np.float32)

    def _gemm(self, placed: Placed) -> None:
        instruction = placed.instruction
        source, bank, to, state, rows, depth, width = (int(value) for value in instruction.values)
        floats = instruction.has("float")
        weights = self._banks[self._registers.address(bank)][:depth, :width]
        before = instruction.has("accumulate")
        if floats:
            context = self._floats(to, rows, width)
            if instruction.has("rescale"):
                context *= self._floats(state, rows, 3)[:, 2:3]
            made = self._floats(source, rows, depth) @ weights
            context[...] = context + made if before else made
            return
        sums = self._rows(to, rows, width, np.int32)
        given = self._rows(source, rows, depth, np.int8)
        exact = (given.astype(np.float32) @ weights).astype(np.int32)
        sums[...] = sums + exact if before else exact
        if self._watch:
            self._watch(Seen(self._operator, placed, given.copy(), weights, sums.copy()))

    def _matmul_softmax(self, instruction: Instruction) -> None:
        """Scores of a tile of positions; probabilities against the largest score until now; what that changes of the sums before."""
        source, bank, partial, state, to, first, rows, depth, width = (int(value) for value in instruction.values)
        registers = self._registers
        scores = self._floats(source, rows, depth) @ self._banks[registers.address(bank)][:depth, :width]
        if instruction.has("accumulate"):
            scores += self._floats(partial, rows, width)
        scores = np.where(
            self._visible(first, rows, width, own=instruction.has("own"), causal=instruction.has("causal")), scores, unit.NEVER
        )
        states = self._floats(state, rows, 3)
        largest = np.maximum(states[:, 0], scores.max(axis=1))
        correction = np.exp(states[:, 0] - largest)
        odds = np.where(scores > unit.NEVER / 2, np.exp(scores - largest[:, None]), np.float32(0))
        self._floats(to, rows, width)[...] = odds
        states[:, 1] = states[:, 1] * correction + odds.sum(axis=1, dtype=np.float32)
        states[:, 0], states[:, 2] = largest, correction

    def _visible(self, first: int, rows: int, columns: int, *, own: bool, causal: bool) -> npt.NDArray[np.bool_]:
        registers = self._registers
        position = registers.indices[POSITION]
        return unit.visible(
            rows, columns, registers.address(first), max(registers.pitch(first), 1), own=own, causal=causal, position=position
        )

    def _dequant(self, instruction: Instruction) -> None:
        source, row_scales, column_scales, to, rows, width = (int(value) for value in instruction.values)
        sums = self._rows(source, rows, width, np.int32).astype(np.float32)
        scales = self._floats(row_scales, rows, 1) * self._floats(column_scales, width, 1)[:, 0]
        self._floats(to, rows, width)[...] += sums * scales

    def _quantized(self, placed: Placed, rows: npt.NDArray[np.float32], to: int, scales: int, block: int) -> None:
        levels, found = unit.quantize(rows, block)
        flat = levels.reshape(len(rows), -1)
        self._rows(to, len(rows), flat.shape[1], np.int8)[...] = flat
        self._floats(scales, *found.shape)[...] = found
        if self._watch:
            self._watch(Seen(self._operator, placed, rows, None, flat))

    def _vector(self, instruction: Instruction) -> None:
        to, a, b, rows, columns = (int(value) for value in instruction.values[:5])
        immediate, kind = np.float32(instruction.values[5]), instruction.kind
        match kind:
            case "fill":
                self._floats(to, rows, columns)[...] = immediate
            case "add" | "subtract" | "multiply" | "exp":
                self._floats(to, rows, columns)[...] = unit.TWO[kind](self._floats(a, rows, columns), self._floats(b, rows, columns))
            case "max" | "sum" | "mean" | "mean_square":
                self._floats(to, rows, 1)[...] = unit.ROWS[kind](self._floats(a, rows, columns))
            case "turn" | "turn_halves":
                turned = unit.turn(self._floats(a, rows, columns), self._floats(b, rows, columns), halves=kind == "turn_halves")
                self._floats(to, rows, columns)[...] = turned
            case "mask_later" | "mask_unfilled":
                seen = self._visible(b, rows, columns, own=kind == "mask_later", causal=True)
                self._floats(to, rows, columns)[...] = np.where(seen, self._floats(a, rows, columns), unit.NEVER)
            case "expand":
                block = int(immediate)
                levels = self._rows(a, rows, columns, np.uint8).astype(np.float32) - np.float32(128)
                scales = np.repeat(self._floats(b, rows, -(-columns // block)), block, axis=1)[:, :columns]
                self._floats(to, rows, columns)[...] = levels * scales
            case "top":
                count = int(immediate)
                self._rows(to, rows, count, np.int32)[...] = unit.top(self._floats(a, rows, columns), count)
            case "gather" | "scatter":
                self._by_places(kind, to, a, b, rows, columns)
            case "to_float16":
                self._rows(to, rows, columns, np.float16)[...] = self._floats(a, rows, columns)
            case "to_levels":
                levels = np.rint(self._floats(a, rows, columns) / self._floats(b, rows, columns))
                self._rows(to, rows, columns, np.int8)[...] = np.clip(levels, -127, 127)
            case _:
                self._floats(to, rows, columns)[...] = unit.ONE[kind](self._floats(a, rows, columns), immediate)

    def _by_places(self, kind: str, to: int, a: int, b: int, rows: int, columns: int) -> None:
        """Row by row: places are within a row, however long."""
        places = self._rows(b, rows, columns, np.int32)
        source, target = (a, to) if kind == "gather" else (to, a)
        reach = int(places.max()) + 1
        table, values = self._floats(source, rows, reach), self._floats(target, rows, columns)
        if kind == "gather":
            values[...] = np.take_along_axis(table, places, axis=1)
        else:
            np.put_along_axis(table, places, values, axis=1)
