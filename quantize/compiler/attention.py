"""Schedules attention: the cache's positions a tile at a time, then the rows' own; by a softmax that is fused, or in three steps.

The rows' own keys and values do not come from DRAM: nothing that is loaded has to wait for what this run stores.
"""

from __future__ import annotations

from collections.abc import Iterator

from protos.chip.instructions import NONE, SEQUENCE
from protos.chip.semaphores import (
    BANK,
    CACHE_READ,
    FREE,
    LOADED,
    OPERAND,
    OUT,
    PARAMETER,
    PARAMETER_FREE,
    READY,
    ROOM,
    STORED,
    SUMS,
    WRITTEN,
)
from quantize.compiler.attention_rows import STATE_BYTES, AttentionRows
from quantize.compiler.layout import cache_name, cached, sequence_bytes
from quantize.compiler.writer import (
    BANK_RING,
    CHUNK,
    HEAD,
    LEVELS,
    RING_GROUP,
    ROOM_RING,
    SCALES,
    TOKEN,
    accumulators,
    going_on,
    per_row,
)

_NEVER = -1e30  # against which nothing else in a softmax counts


class AttentionSchedule(AttentionRows):
    """Of one attention."""

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
                odds, state = writer.register(self._scores, pitch), writer.register(self._state, STATE_BYTES)
                writer.emit("LOAD", source, odds, self._rows, pitch, waits=(WRITTEN,), signals=(PARAMETER,))
                total = writer.register(self._state + 4, STATE_BYTES)
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
        state = writer.register(self._state, STATE_BYTES)
        writer.vector("fill", state, rows=self._rows, immediate=_NEVER)
        rest = writer.register(self._state + 4, STATE_BYTES)
        writer.vector("fill", rest, rows=self._rows, columns=2)
        writer.vector("fill", self._context_sums(), rows=self._rows, columns=width, signals=(OPERAND,))
        writer.sync("array", waits=(OPERAND,))

    def _end_head(self) -> None:
        """The sums over their weights' sum, back into the order of heads."""
        writer, attend, width = self._writer, self._attend, self._attend.head_dim
        writer.fresh()
        total = writer.register(self._state + 4, STATE_BYTES, {TOKEN: self._shared * STATE_BYTES})
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

    def _keys(self, first: int, base: int, *, own: bool, values: bool = False, fused: bool = True, column: int = 0) -> tuple[int, str]:
        """The register of a tile's keys from element `first` on, or values from row `first` and element `column` on, and PRELOAD's kind."""
        writer, attend = self._writer, self._attend
        pitch = self._position_bytes
        kind = f"{self._kind}_by_depth" if values else self._kind
        offset = first * (pitch if values else self._item) + column * self._item
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
        state = writer.register(self._state, STATE_BYTES)
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
        """Onto the head's sums, some of their elements at a time; the vector unit gets SUMS once."""
        writer, elements = self._writer, self._attend.head_dim
        if not rescale:
            writer.fresh()
        state, sums, odds = writer.register(self._state, STATE_BYTES), writer.register(0), writer.register(0)
        start = 0 if rescale else 4 * (self._shape.context + base if own else base)
        steps = {} if own or rescale else {CHUNK: 4 * self._tile.positions}
        for column in range(0, elements, self._tile.width):
            width = min(self._tile.width, elements - column)
            writer.point(sums, writer.context_base + 4 * column, 4 * elements)
            for first in range(0, positions, self._tile.depth):
                depth = min(self._tile.depth, positions - first)
                values, kind = self._keys(first, base, own=own, values=True, fused=rescale, column=column)
                writer.emit("PRELOAD", values, NONE, BANK_RING, depth, width, kind=kind, waits=(BANK,), signals=(READY,))
                writer.point(odds, self._scores + start + 4 * first, pitch, steps)
                last = first + depth == positions and column + width == elements
                rescales = rescale and first == 0
                # The first one reads probabilities that have just been made: it may not stream in behind them.
                streams = writer.streaming if first or column else ()
                fields = (odds, going_on(BANK_RING), accumulators(sums), state if rescales else NONE, self._rows, depth, width)
                flags = ["accumulate", "float", *streams, *(["rescale"] if rescales else [])]
                writer.emit("GEMM", *fields, flags=flags, waits=(READY,), signals=(BANK, SUMS) if last else (BANK,))
