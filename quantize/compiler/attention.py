"""Schedules attention: the cache's positions a tile at a time, then the rows' own; by a softmax that is fused, or in three steps.

The rows' own keys and values do not come from DRAM: nothing that is loaded has to wait for what this run stores.
"""

from __future__ import annotations

from collections.abc import Iterator

from protos.chip.instructions import NONE, POSITION, SEQUENCE
from protos.chip.semaphores import (
    BANK,
    CACHE_READ,
    FREE,
    LOADED,
    OPERAND,
    OUT,
    OWN,
    PARAMETER,
    PARAMETER_FREE,
    READY,
    ROOM,
    STORED,
    SUMS,
    WRITTEN,
)
from quantize.compiler import ir
from quantize.compiler.layout import cache_name, cached, item_bytes, sequence_bytes
from quantize.compiler.tiling import AttentionTile, group_rows
from quantize.compiler.writer import (
    BANK_RING,
    CHUNK,
    HEAD,
    LEVELS,
    RING_GROUP,
    ROOM_RING,
    SCALES,
    TOKEN,
    Writer,
    accumulators,
    going_on,
    per_row,
)

_NEVER = -1e30  # against which nothing else in a softmax counts
_STATE_BYTES = 12  # of a row: maximum, sum, correction


class AttentionSchedule:
    """Of one attention; `rows` queries of each sequence share a key head's keys."""

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
        self._state, self._scores = workspace, workspace + self._rows * _STATE_BYTES
        self._position_bytes = attend.head_dim * self._item
        self._context = shape.context + shape.rows

    def fused(self) -> None:
        writer = self._writer
        writer.await_stored()
        with writer.loop(SEQUENCE, self._shape.sequences):
            self._prepare()
            with writer.loop(HEAD, self._attend.kv_heads):
                self._begin_head()
                for base, count, positions in self._tiles():
                    with writer.loop(CHUNK, count):
                        self._load(base, positions, cached(self._attend))
                        self._fused_tile(positions, base, own=False)
                        self._free_slot()
                for base, positions in self._own_tiles():
                    self._fused_tile(positions, base, own=True)
                    writer.sync("vector", waits=(SUMS,))
                self._end_head()
            writer.sync("load", signals=(CACHE_READ,))
            self._store(cached(self._attend))
        writer.sync("store", signals=(STORED,))
        writer.unread = True

    def scores(self) -> None:
        """Into DRAM, tile by tile; the keys into the cache."""
        writer = self._writer
        writer.await_stored()
        with writer.loop(SEQUENCE, self._shape.sequences):
            self._prepare()
            with writer.loop(HEAD, self._attend.kv_heads):
                for base, count, positions in self._tiles():
                    with writer.loop(CHUNK, count):
                        self._load(base, positions, ("keys",))
                        writer.sync("weights", waits=(LOADED,))
                        self._score_tile(positions, base, own=False)
                        self._next_slot()
                for base, positions in self._own_tiles():
                    self._score_tile(positions, base, own=True)
            writer.sync("load", signals=(CACHE_READ,))
            self._store(("keys",))
        writer.sync("store", signals=(WRITTEN,))

    def softmax(self) -> None:
        writer, attend = self._writer, self._attend
        pitch = 4 * self._context
        with writer.loop(SEQUENCE, self._shape.sequences):
            with writer.loop(HEAD, attend.kv_heads):
                writer.fresh()
                source = writer.register(writer.dram("scores"), pitch, self._group_steps(self._rows * pitch))
                odds, state = writer.register(self._scores, pitch), writer.register(self._state, _STATE_BYTES)
                writer.emit("LOAD", source, odds, self._rows, pitch, waits=(WRITTEN,), signals=(PARAMETER,))
                total = writer.register(self._state + 4, _STATE_BYTES)
                writer.vector("max", state, odds, rows=self._rows, columns=self._context, waits=(PARAMETER,))
                writer.vector("exp", odds, odds, per_row(state), self._rows, self._context)
                writer.vector("sum", total, odds, rows=self._rows, columns=self._context)
                writer.vector("fill", self._context_sums(), rows=self._rows, columns=attend.head_dim, signals=(OPERAND,))
                writer.sync("array", waits=(OPERAND,))
                for base, count, positions in self._tiles():
                    with writer.loop(CHUNK, count):
                        self._load(base, positions, ("values",))
                        writer.sync("weights", waits=(LOADED,))
                        self._weigh_values(positions, base, pitch, own=False, rescale=False)
                        self._free_slot()
                for base, positions in self._own_tiles():
                    self._weigh_values(positions, base, pitch, own=True, rescale=False)
                    writer.sync("vector", waits=(SUMS,))
                self._end_head()
                writer.sync("vector", signals=(OUT,))
                writer.sync("store", waits=(OUT,), signals=(WRITTEN,))
            writer.sync("load", signals=(CACHE_READ,))
            self._store(("values",) if attend.values is not None else ())
        writer.sync("load", waits=(WRITTEN,))
        writer.sync("store", signals=(STORED,))
        writer.unread = True

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

    def _values_offset(self) -> int:
        """In `own`: all sequences' keys come first."""
        return self._shape.sequences * self._attend.kv_heads * self._own_bytes

    def _group_steps(self, size: int) -> dict[int, int]:
        """Of what there is once for each sequence and key head."""
        return {SEQUENCE: self._attend.kv_heads * size, HEAD: size}

    def _tiles(self) -> Iterator[tuple[int, int, int]]:
        """(first position, how many tiles, positions in each)."""
        whole, rest = divmod(self._shape.context, self._tile.positions)
        if whole:
            yield 0, whole, self._tile.positions
        if rest:
            yield whole * self._tile.positions, 1, rest

    def _own_tiles(self) -> Iterator[tuple[int, int]]:
        """(first row, rows in the tile)."""
        size = min(self._tile.positions, self._shape.rows)
        for start in range(0, self._shape.rows, size):
            yield start, min(size, self._shape.rows - start)

    def _load(self, base: int, positions: int, what: tuple[str, ...]) -> None:
        """Keys, values or both of a tile into the next slot; one behind the other."""
        writer, attend = self._writer, self._attend
        writer.fresh()
        size = positions * self._position_bytes
        head_bytes = self._shape.context * self._position_bytes
        steps = {SEQUENCE: sequence_bytes(attend, self._shape), HEAD: head_bytes, CHUNK: size}
        for number, name in enumerate(what):
            name = name if attend.values is not None else "keys"
            source = writer.register(writer.dram(cache_name(attend.layer, name)) + base * self._position_bytes, 0, steps)
            slot = (LEVELS, SCALES)[number]
            writer.point(slot, writer.ring_base + number * size)
            waits = (FREE,) if number == 0 else ()
            signals = (LOADED,) if number == len(what) - 1 else ()
            writer.emit("LOAD", source, slot, 1, size, waits=waits, signals=signals)

    def _free_slot(self) -> None:
        self._writer.sync("vector", waits=(SUMS,), signals=(FREE,))
        self._next_slot()

    def _next_slot(self) -> None:
        self._writer.emit("NEXT", LEVELS, RING_GROUP)

    def _context_sums(self, token: bool = False) -> int:
        width = self._attend.head_dim
        steps = {TOKEN: 4 * width * self._shared} if token else {}
        return accumulators(self._writer.register(self._writer.context_base, 4 * width, steps))

    def _begin_head(self) -> None:
        writer, width = self._writer, self._attend.head_dim
        writer.fresh()
        state = writer.register(self._state, _STATE_BYTES)
        writer.vector("fill", state, rows=self._rows, immediate=_NEVER)
        rest = writer.register(self._state + 4, _STATE_BYTES)
        writer.vector("fill", rest, rows=self._rows, columns=2)
        writer.vector("fill", self._context_sums(), rows=self._rows, columns=width, signals=(OPERAND,))
        writer.sync("array", waits=(OPERAND,))

    def _end_head(self) -> None:
        """The sums over their weights' sum, back into the order of heads."""
        writer, attend, width = self._writer, self._attend, self._attend.head_dim
        writer.fresh()
        total = writer.register(self._state + 4, _STATE_BYTES, {TOKEN: self._shared * _STATE_BYTES})
        writer.vector("reciprocal", total, total, rows=self._rows)
        to = attend.to
        steps = {SEQUENCE: self._shape.rows * to.buffer.pitch, HEAD: 4 * self._shared * width, TOKEN: to.buffer.pitch}
        place = writer.view(to, steps, pitch=4 * width)
        sums = self._context_sums(token=True)
        with writer.loop(TOKEN, self._shape.rows):
            writer.vector("multiply", place, sums, per_row(total), self._shared, width)
        if attend.value_scales is not None:
            scales = attend.value_scales
            done = writer.parameters((writer.register(writer.dram(scales.region)), 1, scales.size_bytes, 0, 0))
            writer.sync("vector", waits=(PARAMETER,))
            by = writer.parameter(steps={HEAD: 4 * width})
            with writer.loop(TOKEN, self._shape.rows):
                writer.vector("multiply", place, place, by, self._shared, width)
            writer.sync("vector", signals=(PARAMETER_FREE,))
            done()

    def _keys(self, first: int, base: int, *, own: bool, values: bool = False, fused: bool = True) -> tuple[int, str]:
        """The register of a tile's keys or values from element or row `first` on, and which kind PRELOAD is told."""
        writer, attend = self._writer, self._attend
        pitch = self._position_bytes
        kind = f"{self._kind}_by_depth" if values else self._kind
        offset = first * (pitch if values else self._item)
        if own:
            start = writer.at(attend.own) + base * pitch + (self._values_offset() if values and attend.values is not None else 0)
            return writer.register(start + offset, pitch, self._group_steps(self._own_bytes)), kind
        slot = SCALES if values and fused and attend.values is not None else LEVELS
        at = writer.ring_base + (self._tile_bytes if slot == SCALES else 0)
        writer.point(slot, at + offset, pitch)
        return slot, kind

    def _score_slices(self, positions: int, base: int, *, own: bool) -> Iterator[tuple[int, int, bool]]:
        """After the weights of each slice are on their way: (register of queries, elements, whether it is the last)."""
        writer, attend = self._writer, self._attend
        slices = self._tile.head_slices
        depth = attend.head_dim // slices
        for number in range(slices):
            keys, kind = self._keys(number * depth, base, own=own)
            writer.emit("PRELOAD", keys, NONE, BANK_RING, depth, positions, kind=kind, waits=(BANK,), signals=(READY,))
            queries = writer.register(
                writer.at(attend.packed) + 4 * number * depth, 4 * attend.head_dim, self._group_steps(self._group_bytes)
            )
            yield queries, depth, number == slices - 1

    def _first(self, base: int, *, own: bool) -> int:
        """The register that tells a mask which position a tile begins with, and how many rows a token has."""
        return self._writer.register(base, self._shared, {} if own else {CHUNK: self._tile.positions})

    def _fused_tile(self, positions: int, base: int, *, own: bool) -> None:
        writer = self._writer
        writer.fresh()
        self._tile_bytes = positions * self._position_bytes
        if not own:
            writer.sync("weights", waits=(LOADED,))
        partial = accumulators(writer.register(0, 4 * positions))
        state = writer.register(self._state, _STATE_BYTES)
        odds = writer.register(self._scores, 4 * positions)
        first = self._first(base, own=own)
        for number, (queries, depth, last) in enumerate(self._score_slices(positions, base, own=own)):
            size = (self._rows, depth, positions)
            more = ["accumulate"] if number else []
            if not last:
                writer.emit(
                    "GEMM", queries, going_on(BANK_RING), partial, NONE, *size, flags=[*more, "float"], waits=(READY,), signals=(BANK,)
                )
                continue
            flags = [*more, *(["own"] if own else []), *(["causal"] if own and self._attend.causal else [])]
            fields = (queries, going_on(BANK_RING), partial if number else NONE, state, odds, first, *size)
            writer.emit("MATMUL_SOFTMAX", *fields, flags=flags, waits=(READY,), signals=(BANK,))
        self._weigh_values(positions, base, 4 * positions, own=own, rescale=True)

    def _score_tile(self, positions: int, base: int, *, own: bool) -> None:
        """Of one key head, masked, into DRAM."""
        writer = self._writer
        writer.fresh()
        writer.point(ROOM_RING, 0, 4 * positions)
        first, scores = self._first(base, own=own), writer.register(self._scores, 4 * positions)
        for number, (queries, depth, last) in enumerate(self._score_slices(positions, base, own=own)):
            writer.emit(
                "GEMM",
                queries,
                going_on(BANK_RING),
                accumulators(ROOM_RING),
                NONE,
                self._rows,
                depth,
                positions,
                flags=["float", *(["accumulate"] if number else []), *writer.streaming],
                waits=(READY, ROOM) if number == 0 else (READY,),
                signals=(BANK, SUMS) if last else (BANK,),
            )
        sums = going_on(accumulators(ROOM_RING))
        kind = "copy" if own and not self._attend.causal else "mask_later" if own else "mask_unfilled"
        writer.vector(kind, scores, sums, NONE if kind == "copy" else first, self._rows, positions, waits=(SUMS,), signals=(ROOM, OUT))
        if not own:
            writer.sync("vector", signals=(FREE,))
        pitch = 4 * self._context
        start = self._shape.context + base if own else base
        steps = {**self._group_steps(self._rows * pitch), **({} if own else {CHUNK: 4 * self._tile.positions})}
        to = writer.register(writer.dram("scores") + 4 * start, pitch, steps)
        writer.emit("STORE", scores, to, self._rows, 4 * positions, waits=(OUT,), signals=(STORED,))
        writer.sync("vector", waits=(STORED,))

    def _weigh_values(self, positions: int, base: int, pitch: int, *, own: bool, rescale: bool) -> None:
        """Onto the head's sums; the vector unit gets SUMS once."""
        writer, width = self._writer, self._attend.head_dim
        if not rescale:
            writer.fresh()
        state, sums = writer.register(self._state, _STATE_BYTES), self._context_sums()
        start = 0 if rescale else 4 * (self._shape.context + base if own else base)
        steps = {} if own or rescale else {CHUNK: 4 * self._tile.positions}
        odds = writer.register(self._scores)
        for first in range(0, positions, self._tile.depth):
            depth = min(self._tile.depth, positions - first)
            values, kind = self._keys(first, base, own=own, values=True, fused=rescale)
            writer.emit("PRELOAD", values, NONE, BANK_RING, depth, width, kind=kind, waits=(BANK,), signals=(READY,))
            writer.point(odds, self._scores + start + 4 * first, pitch, steps)
            last = first + depth == positions
            streams = writer.streaming if first else ()
            writer.emit(
                "GEMM",
                odds,
                going_on(BANK_RING),
                sums,
                state if rescale and first == 0 else NONE,
                self._rows,
                depth,
                width,
                flags=["accumulate", "float", *streams, *(["rescale"] if rescale and first == 0 else [])],
                waits=(READY,),
                signals=(BANK, SUMS) if last else (BANK,),
            )

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
