"""Schedules what an attention does with a run's own rows: queries by key head, keys and values as the cache has them, and into it."""

from __future__ import annotations

from protos.chip.instructions import NONE, POSITION, SEQUENCE
from protos.chip.semaphores import CACHE_READ, OPERAND, OUT, OWN, PARAMETER, PARAMETER_FREE
from quantize.compiler import ir
from quantize.compiler.layout import cache_name, item_bytes, sequence_bytes
from quantize.compiler.tiling import AttentionTile, group_rows
from quantize.compiler.writer import HEAD, TOKEN, Writer

STATE_BYTES = 12  # of a row: maximum, sum, correction


class AttentionRows:
    """Of one attention; `_rows` queries of each sequence share a key head's keys."""

    def __init__(self, writer: Writer, attend: ir.Attend, tile: AttentionTile, workspace: int) -> None:
        self._writer = writer
        self._attend = attend
        self._tile = tile
        shape = writer.shape
        self._shape = shape
        self._item = item_bytes(shape)
        self._kind = {"float32": "f32", "float16": "f16", "int8": "s8"}[shape.kv_dtype]
        self._rows = group_rows(attend) // shape.sequences
        self._shared = attend.heads // attend.kv_heads
        self._group_bytes = 4 * self._rows * attend.head_dim  # of queries of one key head
        self._own_bytes = shape.rows * attend.head_dim * self._item  # of keys of one key head
        self._state, self._scores = workspace, workspace + self._rows * STATE_BYTES
        self._position_bytes = attend.head_dim * self._item
        self._context = shape.context + shape.rows

    def _prepare(self) -> None:
        """Queries scaled and by key head, keys and values as the cache has them."""
        writer, attend, shape = self._writer, self._attend, self._shape
        width = attend.head_dim
        writer.fresh()
        int8 = attend.key_scales is not None
        for number, (view, scales) in enumerate(((attend.keys, attend.key_scales), (attend.values, attend.value_scales))):
            if view is None:
                continue
            to = writer.register(
                writer.at(attend.own) + number * self._values_offset(),
                self._position_bytes,
                {SEQUENCE: attend.kv_heads * self._own_bytes, HEAD: self._own_bytes},
            )
            source = writer.view(view, {SEQUENCE: shape.rows * view.buffer.pitch, HEAD: 4 * width})
            if scales is not None:
                done = writer.parameters((writer.register(writer.dram(scales.region)), 1, scales.size_bytes, 0, 0))
                writer.sync("vector", waits=(PARAMETER,))
                by = writer.parameter(steps={HEAD: 4 * width})
            kind = {"float32": "copy", "float16": "to_float16", "int8": "to_levels"}[shape.kv_dtype]
            with writer.loop(HEAD, attend.kv_heads):
                writer.vector(kind, to, source, by if scales is not None else NONE, shape.rows, width)
            if scales is not None:
                writer.sync("vector", signals=(PARAMETER_FREE,))
                done()
        token = self._shared * width * 4
        packed = writer.register(writer.at(attend.packed), 4 * width, {**self._group_steps(self._group_bytes), TOKEN: token})
        queries = attend.queries
        steps = {SEQUENCE: shape.rows * queries.buffer.pitch, HEAD: token, TOKEN: queries.buffer.pitch}
        source = writer.view(queries, steps, pitch=4 * width)
        with writer.loop(HEAD, attend.kv_heads), writer.loop(TOKEN, shape.rows):
            writer.vector("scale", packed, source, rows=self._shared, columns=width, immediate=attend.scale)
        if int8 and attend.key_scales is not None:
            done = writer.parameters((writer.register(writer.dram(attend.key_scales.region)), 1, attend.key_scales.size_bytes, 0, 0))
            writer.sync("vector", waits=(PARAMETER,))
            by = writer.parameter(steps={HEAD: 4 * width})
            with writer.loop(HEAD, attend.kv_heads):
                writer.vector("multiply", packed, packed, by, self._rows, width)
            writer.sync("vector", signals=(PARAMETER_FREE,))
            done()
        writer.sync("vector", signals=(OWN, OUT))
        writer.sync("vector", signals=(OPERAND,))
        writer.sync("weights", waits=(OWN,))
        writer.sync("store", waits=(OUT,))
        writer.sync("array", waits=(OPERAND,))

    def _store(self, what: tuple[str, ...]) -> None:
        """The rows' own into the cache, each behind what its sequence has, when all of it was read."""
        writer, attend, shape = self._writer, self._attend, self._shape
        writer.fresh()
        writer.sync("store", waits=(CACHE_READ,))
        for name in what:
            values = name == "values"
            source = writer.register(
                writer.at(attend.own) + (self._values_offset() if values else 0), self._position_bytes, self._group_steps(self._own_bytes)
            )
            steps = {
                SEQUENCE: sequence_bytes(attend, shape),
                HEAD: shape.context * self._position_bytes,
                POSITION: self._position_bytes,
            }
            to = writer.register(writer.dram(cache_name(attend.layer, name)), self._position_bytes, steps)
            with writer.loop(HEAD, attend.kv_heads):
                writer.emit("STORE", source, to, shape.rows, self._position_bytes)

    def _values_offset(self) -> int:
        """In `own`: all sequences' keys come first."""
        return self._shape.sequences * self._attend.kv_heads * self._own_bytes

    def _group_steps(self, size: int) -> dict[int, int]:
        """Of what there is once for each sequence and key head."""
        return {SEQUENCE: self._attend.kv_heads * size, HEAD: size}
