"""Schedules mixtures of experts: which experts each row chose, and their products by numbers that the sequencer fetches."""

from __future__ import annotations

import itertools

from protos.chip.semaphores import CHOSEN, PARAMETER, PARAMETER_FREE
from quantize.compiler import ir
from quantize.compiler.ir import Matrix
from quantize.compiler.products import Weighing, begin_sum, weigh, whole
from quantize.compiler.tiling import ProductTile
from quantize.compiler.vectors import swiglu
from quantize.compiler.writer import (
    HEAD,
    TOKEN,
    Writer,
    per_row,
)

_NEVER = -1e30
_LEAST = 1e-20  # quantize.layers.reference: what keeps a sum of weights from being nothing


def route(writer: Writer, operation: ir.Route) -> None:
    """Scores are sigmoids; a bias only chooses; of groups, the best by their two best. Row by row, in the scratch of each."""
    router, scratch, count = operation.router, operation.scratch, operation.router.count
    groups, size, chosen = router.groups, router.count // router.groups, router.per_token
    writer.fresh()
    at = {}
    place = writer.at(scratch)
    for name, width in (
        ("scores", count),
        ("merit", count),
        ("two", 2 * groups),
        ("pairs", 2 * groups),
        ("sums", groups),
        ("outside", groups),
        ("best", router.groups_per_token),
        ("inside", router.groups_per_token),
        ("total", 1),
    ):
        at[name] = place
        place += 4 * width

    def row(name: str, pitch: int = 0) -> int:
        return writer.register(at[name], pitch, {TOKEN: scratch.pitch})

    done = writer.parameters((writer.register(writer.dram(operation.bias.region)), 1, operation.bias.size_bytes, 0, 0))
    writer.sync("vector", waits=(PARAMETER,))
    bias = writer.parameter()
    logits = writer.view(operation.logits, {TOKEN: operation.logits.buffer.pitch})
    scores, merit, total = row("scores"), row("merit"), row("total", 4)
    places = writer.buffer(operation.chosen, {TOKEN: operation.chosen.pitch})
    weights = writer.buffer(operation.weights, {TOKEN: operation.weights.pitch})
    with writer.loop(TOKEN, operation.logits.buffer.rows):
        writer.vector("sigmoid", scores, logits, columns=count)
        writer.vector("add", merit, scores, bias, columns=count)
        if groups > 1:
            by_group, two, pairs = row("merit", 4 * size), row("two", 8), row("pairs", 8)
            sums, outside, best, inside = row("sums", 4), row("outside", 4), row("best"), row("inside")
            writer.vector("top", two, by_group, rows=groups, columns=size, immediate=2)
            writer.vector("gather", pairs, by_group, two, groups, 2)
            writer.vector("sum", sums, pairs, rows=groups, columns=2)
            writer.vector("fill", outside, columns=groups, immediate=_NEVER)
            writer.vector("top", best, sums, columns=groups, immediate=router.groups_per_token)
            writer.vector("fill", inside, columns=router.groups_per_token)
            writer.vector("scatter", outside, inside, best, columns=router.groups_per_token)
            writer.vector("add", by_group, by_group, per_row(outside), groups, size)
        writer.vector("top", places, merit, columns=count, immediate=chosen)
        writer.vector("gather", weights, scores, places, columns=chosen)
        if router.normalized:
            writer.vector("sum", total, weights, columns=chosen)
            writer.vector("reciprocal", total, total, immediate=_LEAST)
            writer.vector("multiply", weights, weights, per_row(total), columns=chosen)
        writer.vector("scale", weights, weights, columns=chosen, immediate=router.scale)
    writer.sync("vector", signals=(PARAMETER_FREE,))
    done()


def experts(writer: Writer, operation: ir.Experts, tiles: tuple[ProductTile, ...]) -> None:
    """Row by row, expert by expert: nothing of an expert is loaded before its number is known."""
    source, tokens = operation.source, operation.source.levels.rows
    gates, product, result, quantized = operation.gates, operation.product, operation.result, operation.quantized
    (gate_up, down), stride = operation.members[0], _strides(writer, operation)
    with writer.loop(TOKEN, tokens), writer.loop(HEAD, operation.chosen.width):
        writer.fresh()
        place = writer.buffer(operation.chosen, {TOKEN: operation.chosen.pitch, HEAD: 4})
        writer.sync("vector", signals=(CHOSEN,))
        writer.emit("FETCH", place, len(operation.members), waits=(CHOSEN,))
        begin_sum(writer, whole(gates), None, 0)
        levels, scales = source.levels, source.scales
        rows = {TOKEN: levels.pitch}
        of_scales = {TOKEN: scales.pitch}
        given = Weighing(gate_up, 0, 1, writer.at(levels), levels.pitch, writer.at(scales), whole(gates), rows, of_scales, stride[0])
        weigh(writer, given, tiles[0])
        writer.fresh()
        swiglu(writer, whole(gates), whole(product))
        writer.emit(
            "QUANT",
            writer.buffer(product),
            writer.buffer(quantized.levels),
            writer.buffer(quantized.scales),
            1,
            product.width,
            quantized.block,
        )
        begin_sum(writer, whole(result), None, 0)
        given = Weighing(
            down, 0, 1, writer.at(quantized.levels), quantized.levels.pitch, writer.at(quantized.scales), whole(result), {}, {}, stride[1]
        )
        weigh(writer, given, tiles[1])
        writer.fresh()
        weight = writer.buffer(operation.weights, {TOKEN: operation.weights.pitch, HEAD: 4})
        value = writer.buffer(result)
        to = writer.view(operation.to, {TOKEN: operation.to.buffer.pitch})
        writer.vector("multiply", value, value, per_row(weight), columns=result.width)
        writer.vector("add", to, to, value, columns=result.width)


def _strides(writer: Writer, operation: ir.Experts) -> tuple[dict[str, int], ...]:
    """From one expert's matrix to the next's, of each product; the layout put them at equal distances."""
    found = []
    for number in range(2):
        matrices = [pair[number] for pair in operation.members]
        found.append({name: _stride(writer, matrices, name) for name in ("levels", "scales")})
    return tuple(found)


def _stride(writer: Writer, matrices: list[Matrix], name: str) -> int:
    places = [writer.dram(getattr(matrix, name).region) for matrix in matrices]
    steps = {second - first for first, second in itertools.pairwise(places)}
    assert len(steps) <= 1, "experts lie at equal distances"
    return steps.pop() if steps else 0
