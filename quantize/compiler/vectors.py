"""Schedules what the vector unit does alone: norms, activations, sums, rotations, rows of tables, copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from protos.chip.instructions import FETCHED, NONE, POSITION, SEQUENCE
from protos.chip.semaphores import CHOSEN, OUT, PARAMETER, PARAMETER_FREE, STORED
from quantize.compiler import ir
from quantize.compiler.ir import View
from quantize.compiler.writer import (
    OTHER_PARAMETERS,
    PARAMETERS,
    TOKEN,
    Writer,
    as_float32,
    per_row,
)


def receive(writer: Writer, operation: ir.Receive) -> None:
    to = operation.to
    source = writer.register(writer.dram("hidden_in"), to.buffer.pitch)
    writer.emit("LOAD", source, writer.view(to), to.buffer.rows, to.buffer.pitch, signals=(PARAMETER,))
    writer.sync("vector", waits=(PARAMETER,))


def send(writer: Writer, operation: ir.Send) -> None:
    source = operation.source
    writer.await_stored()
    to = writer.register(writer.dram(operation.region) + 4 * operation.first, 4 * operation.columns)
    writer.sync("vector", signals=(OUT,))
    writer.emit("STORE", writer.view(source), to, source.buffer.rows, 4 * source.width, waits=(OUT,), signals=(STORED,))
    writer.unread = True
    writer.await_stored()


def copy(writer: Writer, source: View, to: View) -> None:
    writer.vector("copy", writer.view(to), writer.view(source), rows=source.buffer.rows, columns=source.width)


def last_rows(writer: Writer, operation: ir.LastRows) -> None:
    source, rows = operation.source, writer.shape.rows
    last = writer.register(writer.at(source) + (rows - 1) * source.buffer.pitch, rows * source.buffer.pitch)
    writer.vector("copy", writer.view(operation.to), last, rows=writer.shape.sequences, columns=source.width)


def add(writer: Writer, operation: ir.Add) -> None:
    a, b, to = operation.a, operation.b, operation.to
    writer.vector("add", writer.view(to), writer.view(a), writer.view(b), rows=to.buffer.rows, columns=to.width)


def gelu(writer: Writer, operation: ir.Gelu) -> None:
    writer.vector(
        "gelu", writer.view(operation.to), writer.view(operation.source), rows=operation.to.buffer.rows, columns=operation.to.width
    )


def swiglu(writer: Writer, source: View, to: View) -> None:
    """SiLU of the first half times the second."""
    gate, up = (View(source.buffer, source.start + half * to.width, to.width) for half in range(2))
    product = writer.view(to)
    writer.vector("silu", product, writer.view(gate), rows=to.buffer.rows, columns=to.width)
    writer.vector("multiply", product, product, writer.view(up), rows=to.buffer.rows, columns=to.width)


def normalize(writer: Writer, operation: ir.Normalize, workspace: int) -> None:
    """Of rows, or of each head within: those of a view are reached token by token."""
    source, to = operation.source, operation.to
    heads, width, tokens = operation.heads, operation.source.width // operation.heads, operation.source.buffer.rows
    gain = writer.register(writer.dram(operation.gain.region))
    pieces = [(gain, 1, operation.gain.size_bytes, 0, 0)]
    done = writer.parameters(*pieces)
    rows, pitch, count = (tokens, source.buffer.pitch, 1) if heads == 1 else (heads, 4 * width, tokens)
    x = writer.view(source, {TOKEN: source.buffer.pitch}, pitch=pitch)
    y = writer.view(to, {TOKEN: to.buffer.pitch}, pitch=to.buffer.pitch if heads == 1 else 4 * width)
    factor = writer.register(workspace, 4, {TOKEN: 4 * heads})
    with writer.loop(TOKEN, count):
        if operation.bias is not None:
            writer.vector("mean", factor, x, rows=rows, columns=width)
            writer.vector("subtract", y, x, per_row(factor), rows=rows, columns=width)
            x = y
        writer.vector("mean_square", factor, x, rows=rows, columns=width)
        writer.vector("rsqrt", factor, factor, rows=rows, immediate=operation.epsilon)
        writer.vector("multiply", y, x, per_row(factor), rows=rows, columns=width)
    all_rows = y if heads == 1 else writer.view(to, pitch=4 * width)
    factors = writer.parameter()
    writer.vector("multiply", all_rows, all_rows, factors, tokens * heads, width, waits=(PARAMETER,), signals=(PARAMETER_FREE,))
    done()
    if operation.bias is not None:
        bias = writer.register(writer.dram(operation.bias.region))
        done = writer.parameters((bias, 1, operation.bias.size_bytes, 0, 0))
        writer.vector("add", y, y, writer.parameter(), tokens, width, waits=(PARAMETER,), signals=(PARAMETER_FREE,))
        done()


def normalize_quantize(writer: Writer, operation: ir.NormalizeQuantize) -> None:
    source, to = operation.source, operation.to
    gain = writer.register(writer.dram(operation.gain.region))
    done = writer.parameters((gain, 1, operation.gain.size_bytes, 0, 0))
    x, levels, scales = writer.view(source), writer.buffer(to.levels), writer.buffer(to.scales)
    read = writer.parameter()
    writer.emit(
        "NORM_QUANT",
        x,
        read,
        levels,
        scales,
        source.buffer.rows,
        source.width,
        as_float32(operation.epsilon),
        kind=f"block{to.block}",
        waits=(PARAMETER,),
        signals=(PARAMETER_FREE,),
    )
    done()


def turn(writer: Writer, operation: ir.Turn) -> None:
    """A copy, whose heads turn in place; the tables' rows from each sequence's position on are loaded beside."""
    source, to, shape = operation.source, operation.to, writer.shape
    copy(writer, source, to)
    columns, width = operation.table_columns, to.width // operation.heads
    row_bytes = 4 * columns
    tables = [writer.register(writer.dram(table.region), row_bytes, {POSITION: row_bytes}) for table in (operation.cos, operation.sin)]
    heads = writer.view(to, {SEQUENCE: shape.rows * to.buffer.pitch, TOKEN: to.buffer.pitch}, pitch=4 * width)
    kind = "turn_halves" if operation.rotary.halves else "turn"
    with writer.loop(SEQUENCE, shape.sequences):
        done = writer.parameters(*((table, shape.rows, row_bytes, half * row_bytes, 2 * row_bytes) for half, table in enumerate(tables)))
        writer.sync("vector", waits=(PARAMETER,))
        angles = writer.parameter(steps={TOKEN: 2 * row_bytes})
        with writer.loop(TOKEN, shape.rows):
            writer.vector(kind, heads, heads, angles, operation.heads, 2 * columns)
        writer.sync("vector", signals=(PARAMETER_FREE,))
        done()


def receive_places(writer: Writer, operation: ir.ReceivePlaces) -> None:
    source, to = writer.register(writer.dram(operation.region)), writer.buffer(operation.to)
    writer.emit("LOAD", source, to, 1, operation.to.size_bytes, signals=(PARAMETER,))
    writer.sync("vector", waits=(PARAMETER,))


def gather(writer: Writer, operation: ir.Gather) -> None:
    table, to = operation.table, operation.to
    tokens, scale_bytes = to.buffer.rows, 4 * table.blocks if table.scales else 0
    place = writer.buffer(operation.ids, {TOKEN: operation.ids.pitch})
    offset = -(-table.row_bytes // 64) * 64
    gathers = not writer.core.lacks("GATHER_LOAD")
    steps = {} if gathers else {FETCHED: table.row_bytes}
    levels = writer.register(writer.dram(table.levels.region), table.row_bytes, steps)
    pieces = [(levels, table.row_bytes, 0)]
    if table.scales:
        scales = writer.register(writer.dram(table.scales.region), scale_bytes, {} if gathers else {FETCHED: scale_bytes})
        pieces.append((scales, scale_bytes, offset))
    row = writer.view(to, {TOKEN: to.buffer.pitch})
    with writer.loop(TOKEN, tokens):
        done = _row_of(writer, place, table.rows, pieces, gathers=gathers)
        read = writer.parameter()
        if table.scales:
            writer.point(OTHER_PARAMETERS, writer.parameter_base + offset)
            levels_of, other = ("expand", OTHER_PARAMETERS)
        else:
            levels_of, other = ("copy", NONE)
        block = float(table.block)
        writer.vector(levels_of, row, read, other, 1, to.width, block, waits=(PARAMETER,), signals=(PARAMETER_FREE,))
        done()


def add_positions(writer: Writer, operation: ir.AddPositions) -> None:
    table, to = operation.table, operation.to
    tokens, row_bytes = to.buffer.rows, 4 * operation.table.columns
    place = writer.buffer(operation.positions, {TOKEN: operation.positions.pitch}, 4 * operation.column)
    gathers = not writer.core.lacks("GATHER_LOAD")
    rows = writer.register(writer.dram(table.levels.region), row_bytes, {} if gathers else {FETCHED: row_bytes})
    row = writer.view(to, {TOKEN: to.buffer.pitch})
    with writer.loop(TOKEN, tokens):
        done = _row_of(writer, place, table.rows, [(rows, row_bytes, 0)], gathers=gathers)
        writer.vector("add", row, row, writer.parameter(), columns=to.width, waits=(PARAMETER,), signals=(PARAMETER_FREE,))
        done()


def _row_of(writer: Writer, place: int, limit: int, pieces: Sequence[tuple[int, int, int]], *, gathers: bool) -> Callable[[], None]:
    """A row of each table (register, bytes, offset in the slot) by the number at `place`; the sequencer reads it where no load can."""
    if not gathers:
        writer.sync("vector", signals=(CHOSEN,))
        writer.emit("FETCH", place, limit, waits=(CHOSEN,))
        return writer.parameters(*((table, 1, size, offset, 0) for table, size, offset in pieces))
    for number, (table, size, offset) in enumerate(pieces):
        writer.point(PARAMETERS, writer.parameter_base + offset)
        waits = (PARAMETER_FREE,) if number == 0 else ()
        signals = (PARAMETER,) if number == len(pieces) - 1 else ()
        writer.emit("GATHER_LOAD", table, place, PARAMETERS, 1, size, limit, waits=waits, signals=signals)

    def done() -> None:
        writer.emit("NEXT", PARAMETERS, 2)

    return done
