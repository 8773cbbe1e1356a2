"""Third pass: how much of each operation is in the scratchpad, the arrays and the accumulators at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from protos.chip.core import Core
from protos.errors import NoSpace
from quantize.compiler import ir
from quantize.compiler.ir import Matrix, Shape, Step
from quantize.compiler.layout import item_bytes

# Of sums in the accumulators: some are filled while others are emptied. A sum of 128 x 128 leaves 254 cycles behind its row, in which two
# tiles' weights are loaded.
_MOST_ROOM, _LEAST_ROOM = 4, 2
# Of weights in the scratchpad: what is loaded while activations go through norm, attention and activation, between two products.
_LEAST_SLOTS, _MOST_SLOTS = 4, 8
_PARAMETER_SLOTS = 4
_ALIGNMENT = 64
# More bytes a slot gain nothing: at 2 TB/s and 1 GHz such a one lasts 1,000 cycles.
_LARGEST_SLOT = 2 << 20
_MOST_POSITIONS = 2048


@dataclass(frozen=True)
class ProductTile:
    """`width` outputs at a time, `depth` blocks of inputs in a slot, each block in `slices` passes through the arrays."""

    width: int
    depth: int
    block: int
    slices: int


@dataclass(frozen=True)
class AttentionTile:
    """`positions` of the cache at a time. `head_slices` passes for a key's elements; of values `depth` positions and `width` elements."""

    positions: int
    head_slices: int
    depth: int
    width: int


Tile = ProductTile | AttentionTile


@dataclass(frozen=True)
class Tiles:
    """`of`: for each step one for each of its products. Slots are rings in the scratchpad, and `room_bytes` in the accumulators, where
    `context_bytes` behind them keep what an attention sums up."""

    of: tuple[tuple[Tile, ...], ...]
    slots: int
    slot_bytes: int
    parameter_slots: int
    parameter_bytes: int
    room_slots: int
    room_bytes: int
    context_bytes: int
    workspaces: tuple[int, ...]  # bytes of the scratchpad that each step needs for itself

    @property
    def ring_bytes(self) -> int:
        return self.slots * self.slot_bytes + self.parameter_slots * self.parameter_bytes

    @property
    def accumulator_bytes(self) -> int:
        return self.room_slots * self.room_bytes + self.context_bytes


def tile(steps: Sequence[Step], core: Core, shape: Shape, kept_bytes: int) -> Tiles:
    """`kept_bytes` of the scratchpad are taken by values. Raises NoSpace, naming the step, for what cannot fit."""
    context_bytes = max((_context_bytes(step) for step in steps), default=0)
    room_slots, room_bytes = _room(core, shape, core.accumulator_bytes - context_bytes)
    parameter_bytes = max((_parameter_bytes(step.operation, shape) for step in steps), default=0)
    parameter_bytes = _aligned(max(parameter_bytes, _ALIGNMENT))
    workspaces = [_fixed_workspace(step.operation) for step in steps]
    left = core.scratchpad_bytes - kept_bytes - _PARAMETER_SLOTS * parameter_bytes
    slots = max(_LEAST_SLOTS, min(_MOST_SLOTS, left // _LARGEST_SLOT))
    slot_bytes = min(left // slots, _LARGEST_SLOT) // _ALIGNMENT * _ALIGNMENT
    if slot_bytes <= 0 or room_bytes <= 0:
        raise no_space(core, shape, "the values of a step")
    tiles: list[tuple[Tile, ...]] = []
    for number, step in enumerate(steps):
        own = tuple(_tiles_of(step, core, shape, slot_bytes, room_bytes))
        tiles.append(own)
        workspaces[number] += sum(_attention_workspace(step.operation, one, shape) for one in own if isinstance(one, AttentionTile))
    return Tiles(
        tuple(tiles),
        slots,
        slot_bytes,
        _PARAMETER_SLOTS,
        parameter_bytes,
        room_slots,
        room_bytes,
        context_bytes,
        tuple(map(_aligned, workspaces)),
    )


def no_space(core: Core, shape: Shape, what: str) -> NoSpace:
    rows = f"{shape.tokens} rows" if shape.tokens > 1 else "one row"
    return NoSpace(
        f"{what} with {rows} does not fit into {core.name}: {core.scratchpad_bytes:,} bytes of scratchpad, "
        f"{core.accumulator_bytes:,} of accumulators",
        advice="compile for fewer rows or a smaller context, or for a core with more memory",
    )


def _room(core: Core, shape: Shape, left: int) -> tuple[int, int]:
    """(slots, bytes of each): as many as hold a tile of all arrays' outputs."""
    wanted = 4 * shape.tokens * core.width
    slots = max(_LEAST_ROOM, min(_MOST_ROOM, left // wanted))
    return slots, left // slots // _ALIGNMENT * _ALIGNMENT


def group_rows(attend: ir.Attend) -> int:
    """Rows of queries that share a key head's keys, of one sequence."""
    return attend.packed.rows // attend.kv_heads


def _tiles_of(step: Step, core: Core, shape: Shape, slot_bytes: int, room_bytes: int) -> Iterator[Tile]:
    def product(matrix: Matrix, outputs: int, rows: int) -> ProductTile:
        found = _product_tile(matrix, outputs, rows, core, slot_bytes, room_bytes)
        if found is None:
            raise no_space(core, shape, f"a tile of {step.name}")
        return found

    match step.operation:
        case ir.Product() as one:
            yield product(one.matrix, one.to.width, one.source.levels.rows)
        case ir.FloatProduct() as one:
            yield product(one.matrix, one.to.width, one.source.buffer.rows)
        case ir.Experts() as experts:
            yield from (product(matrix, matrix.rows, 1) for matrix in experts.members[0])
        case ir.Scores(attend) | ir.Softmax(attend) | ir.FusedAttend(attend):
            found = _attention_tile(attend, core, shape, slot_bytes, room_bytes)
            if found is None:
                raise no_space(core, shape, f"a tile of {step.name}")
            yield found
        case _:
            pass


def _product_tile(matrix: Matrix, outputs: int, rows: int, core: Core, slot_bytes: int, room_bytes: int) -> ProductTile | None:
    """Of the tiles that fit, the one whose transfers and passes take the least: short rows waste bursts, narrow tiles arrays."""
    block = matrix.block if matrix.scales else min(core.rows, matrix.columns)
    most = min(core.width, outputs, room_bytes // (4 * rows))
    found: list[tuple[float, int, ProductTile]] = []
    width = most
    while width > 0:
        if (tile := _widest_in(matrix, block, width, core, slot_bytes)) is not None:
            found.append((_cycles(matrix, tile, outputs, rows, core), -width, tile))
        width = width // 2
    return min(found, key=lambda entry: entry[:2])[2] if found else None


def _widest_in(matrix: Matrix, block: int, width: int, core: Core, slot_bytes: int) -> ProductTile | None:
    """As many blocks as fit into a slot, alike in all slots."""
    slices = next(count for count in range(1, block + 1) if core.holds(-(-block // count), width))
    blocks = -(-matrix.columns // block)
    depth = min(blocks, slot_bytes // _block_bytes(matrix, block, width))
    if depth > 0:
        depth = -(-blocks // -(-blocks // depth))  # 9 blocks as 5 + 4, not as 8 + 1
        if matrix.zeros and depth < blocks:
            depth -= depth % 2  # two zero points share a byte
    return ProductTile(width, depth, block, slices) if depth > 0 and block % slices == 0 else None


def _cycles(matrix: Matrix, tile: ProductTile, outputs: int, rows: int, core: Core) -> float:
    """The longer of a product's transfers and its passes through the arrays, with nothing in their way."""
    blocks = -(-matrix.columns // tile.block)
    groups, chunks = -(-outputs // tile.width), -(-blocks // tile.depth)

    def moved(row_bytes: int) -> float:
        """In a chunk, one row of `row_bytes` for each output."""
        return -(-row_bytes // core.burst_bytes) * core.burst_bytes * outputs / core.bytes_per_cycle

    pieces = [tile.depth * tile.block * matrix.bits // 8, *([4 * tile.depth] if matrix.scales else [])]
    least = core.dma_seconds * core.clock_hertz / core.dma_channels
    transfers = sum(max(moved(size), groups * least) for size in pieces) * chunks
    passes = groups * blocks * tile.slices * max(min(tile.block // tile.slices, core.rows), rows)
    return max(transfers, float(passes))


def _block_bytes(matrix: Matrix, block: int, width: int) -> int:
    if matrix.scales is None:
        return width * block * 4
    return width * (block * matrix.bits // 8 + 4 + (1 if matrix.zeros else 0))


def _attention_tile(attend: ir.Attend, core: Core, shape: Shape, slot_bytes: int, room_bytes: int) -> AttentionTile | None:
    rows, position_bytes = group_rows(attend) // shape.sequences, attend.head_dim * item_bytes(shape) * (1 if attend.values is None else 2)
    most = min(shape.context, core.width, slot_bytes // position_bytes, room_bytes // (4 * rows), _MOST_POSITIONS)
    if most <= 0:
        return None
    positions = 1 << (most.bit_length() - 1) if most < shape.context else most
    slices = next(
        count for count in range(1, attend.head_dim + 1) if attend.head_dim % count == 0 and core.holds(attend.head_dim // count, positions)
    )
    width = min(attend.head_dim, core.width)
    return AttentionTile(positions, slices, core.rows * (core.arrays // -(-width // core.columns)), width)


def _context_bytes(step: Step) -> int:
    match step.operation:
        case ir.Softmax(attend) | ir.FusedAttend(attend):
            return _aligned(4 * group_rows(attend) * attend.head_dim)
        case _:
            return 0


def _fixed_workspace(operation: ir.Operation) -> int:
    match operation:
        case ir.Normalize():
            return 8 * operation.source.buffer.rows * operation.heads
        case _:
            return 0


def _attention_workspace(operation: ir.Operation, own: AttentionTile, shape: Shape) -> int:
    """Maxima, sums and corrections of each row; probabilities or scores, of a tile or of all positions."""
    match operation:
        case ir.FusedAttend(attend) | ir.Scores(attend):
            rows = group_rows(attend) // shape.sequences
            return rows * (12 + 4 * max(own.positions, min(shape.rows, own.positions)))
        case ir.Softmax(attend):
            rows = group_rows(attend) // shape.sequences
            return rows * (12 + 4 * (shape.context + shape.rows))
        case _:
            return 0


def _parameter_bytes(operation: ir.Operation, shape: Shape) -> int:
    """The most of one step that comes beside weights: gains, biases, a table's rows."""
    match operation:
        case ir.Normalize():
            return operation.gain.size_bytes
        case ir.NormalizeQuantize():
            return operation.gain.size_bytes
        case ir.Product() | ir.FloatProduct():
            return 4 * operation.to.width if operation.bias else 0
        case ir.Turn():
            return 8 * operation.table_columns * shape.rows
        case ir.Gather():
            return _aligned(operation.table.row_bytes) + 4 * operation.table.blocks
        case ir.AddPositions():
            return 4 * operation.to.width
        case ir.Route():
            return operation.bias.size_bytes
        case ir.Scores(attend) | ir.FusedAttend(attend) | ir.Softmax(attend):
            return attend.key_scales.size_bytes if attend.key_scales else 0
        case _:
            return 0


def _aligned(size_bytes: int) -> int:
    return math.ceil(size_bytes / _ALIGNMENT) * _ALIGNMENT


def dump(tiles: Tiles, steps: Sequence[Step]) -> str:
    head = (
        f"{tiles.slots} slots of {tiles.slot_bytes:,} bytes, {tiles.parameter_slots} of {tiles.parameter_bytes:,} for parameters; "
        f"accumulators: {tiles.room_slots} x {tiles.room_bytes:,} and {tiles.context_bytes:,}"
    )
    lines = [f"{step.name}: {' '.join(map(str, own))}" for step, own in zip(steps, tiles.of, strict=True) if own]
    return "\n".join([head, *lines])
