"""Schedules products with matrices: weights one slot ahead of the arrays, sums out of the accumulators while the next tile is in work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from protos.chip.instructions import FETCHED, NONE
from protos.chip.semaphores import BANK, FREE, LOADED, OPERAND, PARAMETER, PARAMETER_FREE, READY, ROOM, SUMS
from quantize.compiler import ir
from quantize.compiler.ir import Buffer, Matrix, Stored, View
from quantize.compiler.tiling import ProductTile
from quantize.compiler.writer import (
    BANK_RING,
    BLOCK,
    CHUNK,
    LEVELS,
    OUTPUTS,
    RING_GROUP,
    ROOM_RING,
    SCALES,
    ZERO_BYTES,
    ZEROS,
    Writer,
    accumulators,
    going_on,
)


@dataclass(frozen=True)
class Weighing:
    """A product with rows [first, first + to.width) of `matrix`. `source` is the int8 or float32 rows at an address with their pitch,
    `scales` those of int8 ones. `stride` is from one expert's matrix to the next's, chosen by the fetched index, by region."""

    matrix: Matrix
    first: int
    rows: int
    source: int
    source_pitch: int
    scales: int
    to: View
    source_steps: Mapping[int, int]
    scale_steps: Mapping[int, int]
    stride: Mapping[str, int]


def product(writer: Writer, operation: ir.Product | ir.FloatProduct, tile: ProductTile) -> None:
    """Rows of all tokens, the bias (or zeros) first."""
    to = operation.to
    begin_sum(writer, to, operation.bias, operation.first)
    if isinstance(operation, ir.Product):
        levels, scales = operation.source.levels, operation.source.scales
        given = (levels.rows, writer.at(levels), levels.pitch, writer.at(scales))
    else:
        given = (operation.source.buffer.rows, writer.at(operation.source), operation.source.buffer.pitch, 0)
    weigh(writer, Weighing(operation.matrix, operation.first, *given, to, {}, {}, {}), tile)


def begin_sum(writer: Writer, to: View, bias: Stored | None, first: int) -> None:
    """The vector unit writes what sums are added to; from here on the arrays may read what it has written before."""
    rows, signals = to.buffer.rows, (OPERAND,)
    if bias is None:
        writer.vector("fill", writer.view(to), rows=rows, columns=to.width, signals=signals)
    else:
        source = writer.register(writer.dram(bias.region) + 4 * first)
        done = writer.parameters((source, 1, 4 * to.width, 0, 0))
        place, read = writer.view(to), writer.parameter()
        writer.vector("copy", place, read, rows=rows, columns=to.width, waits=(PARAMETER,), signals=(OPERAND, PARAMETER_FREE))
        done()
    writer.sync("array", waits=(OPERAND,))


def weigh(writer: Writer, given: Weighing, tile: ProductTile) -> None:
    """Adds the product onto `given.to`, whose OPERAND the arrays have waited for."""
    columns = given.matrix.columns
    blocks, rest = (given.matrix.blocks, 0) if given.matrix.scales else divmod(columns, tile.block)
    for start, count, width in _pieces(given.to.width, tile.width):
        for block, chunks, depth in _pieces(blocks, tile.depth):
            _nest(writer, given, tile, (start, count, width), (block * tile.block, chunks, depth, tile.block))
        if rest:
            _nest(writer, given, tile, (start, count, width), (blocks * tile.block, 1, 1, rest))


def _pieces(total: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(start, how many, size of each): whole ones, and what is left."""
    whole, rest = divmod(total, size)
    if whole:
        yield 0, whole, size
    if rest:
        yield whole * size, 1, rest


def _nest(writer: Writer, given: Weighing, tile: ProductTile, outputs: tuple[int, int, int], inputs: tuple[int, int, int, int]) -> None:
    """Loops over pieces of outputs (start, count, width) and chunks of inputs (first column, count, blocks in each, columns in a block)."""
    start, count, width = outputs
    column, chunks, depth, block = inputs
    matrix = given.matrix
    by_blocks = matrix.scales is not None
    writer.fresh()
    load = _Load(writer, given, start, width, column, depth, block)
    slices = tile.slices if block == tile.block else 1
    step = block // slices
    item = 1 if by_blocks else 4
    moves = {BLOCK: item * block, CHUNK: item * depth * block, **given.source_steps}
    sources = [writer.register(given.source + item * (column + number * step), given.source_pitch, moves) for number in range(slices)]
    to_address = writer.at(given.to) + 4 * start
    to = writer.register(to_address, given.to.buffer.pitch, {OUTPUTS: 4 * width})
    row_scales = NONE
    if by_blocks:
        at = given.scales + 4 * (column // block)
        row_scales = writer.register(at, 4 * matrix.blocks, {BLOCK: 4, CHUNK: 4 * depth, **given.scale_steps})
    writer.point(ROOM_RING, 0, 4 * width)
    kind = f"u{matrix.bits}" if by_blocks else "f32"
    bits = matrix.bits
    with writer.loop(OUTPUTS, count), writer.loop(CHUNK, chunks):
        load.emit()
        writer.sync("weights", waits=(LOADED,))
        if slices == 1:
            writer.point(LEVELS, writer.ring_base, load.pitch, {BLOCK: block * bits // 8})
        with writer.loop(BLOCK, depth):
            for number in range(slices):
                if slices > 1:
                    offset = number * step * bits // 8
                    writer.point(LEVELS, writer.ring_base + offset, load.pitch, {BLOCK: block * bits // 8})
                zeros = ZEROS if matrix.zeros else NONE
                writer.emit("PRELOAD", LEVELS, zeros, BANK_RING, step, width, kind=kind, waits=(BANK,), signals=(READY,))
                last = number == slices - 1
                writer.emit(
                    "GEMM",
                    sources[number],
                    going_on(BANK_RING),
                    accumulators(ROOM_RING),
                    NONE,
                    given.rows,
                    step,
                    width,
                    flags=[*(["accumulate"] if number else []), *writer.streaming, *([] if by_blocks else ["float"])],
                    waits=(READY, ROOM) if number == 0 else (READY,),
                    signals=(BANK, SUMS) if last else (BANK,),
                )
            sums = going_on(accumulators(ROOM_RING))
            if by_blocks:
                writer.emit("DEQUANT", sums, row_scales, SCALES, to, given.rows, width, waits=(SUMS,), signals=(ROOM,))
            else:
                writer.vector("add", to, to, sums, rows=given.rows, columns=width, waits=(SUMS,), signals=(ROOM,))
        writer.sync("vector", signals=(FREE,))
        writer.emit("NEXT", LEVELS, RING_GROUP)


class _Load:
    """Fills a slot: levels, then scales and zero points of `width` outputs."""

    def __init__(self, writer: Writer, given: Weighing, start: int, width: int, column: int, depth: int, block: int) -> None:
        matrix = given.matrix
        self._writer = writer
        self._rows = width
        self._zero_bytes = 0
        bits = matrix.bits
        self.pitch = depth * block * bits // 8
        first = given.first + start
        levels = writer.dram(matrix.levels.region) + first * matrix.row_bytes + column * bits // 8
        self._levels = writer.register(
            levels,
            matrix.row_bytes,
            {OUTPUTS: width * matrix.row_bytes, CHUNK: self.pitch, FETCHED: given.stride.get("levels", 0)},
        )
        self._scales: int | None = None
        if matrix.scales:
            row, place = 4 * matrix.blocks, writer.dram(matrix.scales.region) + 4 * (first * matrix.blocks + column // block)
            steps = {OUTPUTS: width * row, CHUNK: 4 * depth, FETCHED: given.stride.get("scales", 0)}
            self._scales = writer.register(place, row, steps)
            self._scale_bytes = 4 * depth
            writer.point(SCALES, writer.ring_base + width * self.pitch, 4 * depth, {BLOCK: 4})
        if matrix.zeros:
            row = -(-matrix.blocks // 2)
            self._zero_bytes = -(-depth // 2)
            place = writer.dram(matrix.zeros.region) + first * row + column // block // 2
            self._zeros = writer.register(place, row, {OUTPUTS: width * row, CHUNK: self._zero_bytes})
            at = writer.ring_base + width * (self.pitch + 4 * depth)
            writer.point(ZERO_BYTES, at, self._zero_bytes)
            writer.point(ZEROS, 2 * at, 2 * self._zero_bytes, {BLOCK: 1})

    def emit(self) -> None:
        writer = self._writer
        writer.point(LEVELS, writer.ring_base, self.pitch)
        waits: tuple[int, ...] = (FREE,)
        if self._scales is not None:
            writer.emit("LOAD", self._scales, SCALES, self._rows, self._scale_bytes, waits=waits)
            waits = ()
        if self._zero_bytes:
            writer.emit("LOAD", self._zeros, ZERO_BYTES, self._rows, self._zero_bytes)
        writer.emit("LOAD", self._levels, LEVELS, self._rows, self.pitch, waits=waits, signals=(LOADED,))


def quantize(writer: Writer, source: View, to: ir.Quantized, steps: Mapping[int, int] | None = None) -> None:
    writer.emit(
        "QUANT",
        writer.view(source, steps),
        writer.buffer(to.levels),
        writer.buffer(to.scales),
        source.buffer.rows,
        source.width,
        to.block,
    )


def whole(buffer: Buffer) -> View:
    return View(buffer, 0, buffer.width)
