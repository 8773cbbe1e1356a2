"""Fifth pass: instructions of all steps, in program order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

from protos.chip.core import Core
from protos.chip.instructions import Instruction
from quantize.compiler import ir, products, routing, vectors
from quantize.compiler.allocation import Allocation
from quantize.compiler.attention import AttentionSchedule
from quantize.compiler.ir import Shape, Step
from quantize.compiler.tiling import AttentionTile, ProductTile, Tile, Tiles
from quantize.compiler.writer import Writer

# What a library of kernels has in one with what comes next: a quantization with its product, rotations with attention, a sum with the norm
# behind it, as onnxruntime's fused operators do.
_LEAD = ir.Quantize | ir.NormalizeQuantize | ir.Turn | ir.Add | ir.Copy | ir.ReceivePlaces


def schedule(
    steps: Sequence[Step], tiles: Tiles, allocation: Allocation, dram: Mapping[str, int], core: Core, shape: Shape
) -> tuple[Instruction, ...]:
    """Each operation begins with its number; where a core launches each kernel by its own, all before it has ended there."""
    writer = Writer(core, shape, tiles, dram, allocation.place, allocation.size_bytes)
    once = "one_launch" in core.mechanisms
    last = {buffer.name: number for number, step in enumerate(steps) for buffer in ir.buffers(step.operation)}
    for number, (step, own) in enumerate(zip(steps, tiles.of, strict=True)):
        writer.fresh()
        leads = number > 0 and isinstance(steps[number - 1].operation, _LEAD)
        writer.begin(number, launch=number == 0 or not (once or leads))
        if number == 0:
            writer.begin_rings()
        _operation(writer, number, step.operation, own)
        if isinstance(step.operation, ir.Softmax | ir.FusedAttend) and number == last[step.operation.attend.own.name]:
            writer.await_stored()  # another buffer may have its place from here on
    writer.end_rings()
    return tuple(writer.instructions)


def _operation(writer: Writer, number: int, operation: ir.Operation, tiles: tuple[Tile, ...]) -> None:
    match operation:
        case ir.Receive():
            vectors.receive(writer, operation)
        case ir.ReceivePlaces():
            vectors.receive_places(writer, operation)
        case ir.Gather():
            vectors.gather(writer, operation)
        case ir.AddPositions():
            vectors.add_positions(writer, operation)
        case ir.Normalize():
            vectors.normalize(writer, operation, writer.workspace(number))
        case ir.Quantize():
            products.quantize(writer, operation.source, operation.to)
        case ir.NormalizeQuantize():
            vectors.normalize_quantize(writer, operation)
        case ir.Product() | ir.FloatProduct():
            products.product(writer, operation, _product_tiles(tiles)[0])
        case ir.Copy():
            vectors.copy(writer, operation.source, operation.to)
        case ir.Turn():
            vectors.turn(writer, operation)
        case ir.Scores() | ir.Softmax() | ir.FusedAttend():
            _attention(writer, number, operation, tiles)
        case ir.SwiGlu():
            vectors.swiglu(writer, operation.source, operation.to)
        case ir.Gelu():
            vectors.gelu(writer, operation)
        case ir.Add():
            vectors.add(writer, operation)
        case ir.Route():
            routing.route(writer, operation)
        case ir.Experts():
            routing.experts(writer, operation, _product_tiles(tiles))
        case ir.LastRows():
            vectors.last_rows(writer, operation)
        case ir.Send():
            vectors.send(writer, operation)
        case ir.Attend():
            raise TypeError("attention is scheduled as what a core has for it")
        case _:
            assert_never(operation)


def _attention(writer: Writer, number: int, operation: ir.Scores | ir.Softmax | ir.FusedAttend, tiles: tuple[Tile, ...]) -> None:
    tile = tiles[0]
    assert isinstance(tile, AttentionTile)
    one = AttentionSchedule(writer, operation.attend, tile, writer.workspace(number))
    match operation:
        case ir.Scores():
            one.scores()
        case ir.Softmax():
            one.softmax()
        case ir.FusedAttend():
            one.fused()


def _product_tiles(tiles: tuple[Tile, ...]) -> tuple[ProductTile, ...]:
    return tuple(tile for tile in tiles if isinstance(tile, ProductTile))
