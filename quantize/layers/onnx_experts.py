"""A mixture of experts in onnxruntime's operators: the router, and the experts that it chose."""

from __future__ import annotations

from collections.abc import Callable

from onnx import TensorProto

from quantize.layers.graph_builder import GraphBuilder
from quantize.layers.operators import Block, Expert, Mixture, Router

# Adds a block's nodes: (block, its input's tensor) -> its output's.
AddBlock = Callable[[Block, str], str]


def add_mixture(builder: GraphBuilder, place: str, mixture: Mixture, normed: str, add_block: AddBlock) -> str:
    """float32 [batch, sequence, H] of `normed`, as wide; its tensors are called after the router's part."""
    part = f"{place}.{mixture.router.matrix.part}"
    rows, flat, total = (f"{part}.{name}" for name in ("rows", "rows.flat", "shared.flat"))
    hidden_size = mixture.router.matrix.shape[1]
    shared = add_block(mixture.shared, normed)
    one_sequence = builder.constant("experts.sequence", [1, -1, hidden_size])
    builder.add_node("Reshape", [normed, builder.constant("router.rows", [-1, hidden_size])], [flat])
    builder.add_node("Reshape", [normed, one_sequence], [rows])
    builder.add_node("Reshape", [shared, one_sequence], [total])
    weights = _add_router(builder, part, mixture.router, flat)
    total = _add_chosen_experts(builder, place, part, mixture, rows, weights, total, add_block)
    mixed = f"{place}.{mixture.output}"
    builder.add_node("Shape", [shared], [f"{mixed}.shape"])
    builder.add_node("Reshape", [total, f"{mixed}.shape"], [mixed])
    return mixed


def _add_router(builder: GraphBuilder, part: str, router: Router, rows: str) -> str:
    """float32 [rows, count]: each row's weight of each expert, zero of those not chosen, of float32 [rows, H]. All in float32."""

    def name(what: str) -> str:
        return f"{part}.router.{what}"

    builder.add_node("FusedMatMul", [rows, builder.weight(part, router.matrix.name)], [name("logits")], fused=True, transB=1)
    builder.add_node("Sigmoid", [name("logits")], [name("scores")])
    builder.add_node("Add", [name("scores"), builder.weight(part, router.bias.name)], [name("merit")])
    builder.add_node("Shape", [name("scores")], [name("shape")])
    builder.add_node("ConstantOfShape", [name("shape")], [name("zeros")])
    merit = name("merit") if router.groups == 1 else _add_best_groups(builder, part, router, name("merit"))
    builder.add_node("TopK", [merit, builder.constant("router.k", [router.per_token])], [name("best"), name("chosen")], axis=-1)
    builder.add_node("GatherElements", [name("scores"), name("chosen")], [name("raw")], axis=1)
    weights = name("raw")
    last = builder.constant("router.last", [-1])
    if router.normalized:
        builder.add_node("ReduceSum", [weights, last], [name("sum")], keepdims=1)
        builder.add_node("Add", [name("sum"), builder.float_constant("router.least", [1e-20])], [name("divisor")])
        builder.add_node("Div", [weights, name("divisor")], [name("shares")])
        weights = name("shares")
    builder.add_node("Mul", [weights, builder.float_constant("router.scale", [router.scale])], [name("scaled")])
    builder.add_node("ScatterElements", [name("zeros"), name("chosen"), name("scaled")], [name("weights")], axis=1)
    return name("weights")


def _add_best_groups(builder: GraphBuilder, part: str, router: Router, merit: str) -> str:
    """`merit`, minus infinity outside the best groups. A group is as good as its two best experts."""

    def name(what: str) -> str:
        return f"{part}.router.groups.{what}"

    size = router.count // router.groups
    last = builder.constant("router.last", [-1])
    builder.add_node("Reshape", [merit, builder.constant("router.groups", [0, router.groups, size])], [name("merit")])
    builder.add_node("TopK", [name("merit"), builder.constant("router.two", [2])], [name("two"), name("which")], axis=-1)
    builder.add_node("ReduceSum", [name("two"), last], [name("sums")], keepdims=0)
    builder.add_node(
        "TopK", [name("sums"), builder.constant("router.best", [router.groups_per_token])], [name("top"), name("best")], axis=-1
    )
    builder.add_node("Shape", [name("sums")], [name("shape")])
    builder.add_node("ConstantOfShape", [name("shape")], [name("none")])
    builder.add_node("Shape", [name("best")], [name("best.shape")])
    builder.add_node("ConstantOfShape", [name("best.shape")], [name("best.zeros")])
    builder.add_node("Add", [name("best.zeros"), builder.float_constant("router.one", [1.0])], [name("ones")])
    builder.add_node("ScatterElements", [name("none"), name("best"), name("ones")], [name("flags")], axis=1)
    builder.add_node("Cast", [name("flags")], [name("in")], to=TensorProto.BOOL)
    builder.add_node("Unsqueeze", [name("in"), last], [name("in.each")])
    outside = builder.float_constant("router.never", [float("-inf")])
    builder.add_node("Where", [name("in.each"), name("merit"), outside], [name("masked")])
    builder.add_node("Reshape", [name("masked"), builder.constant("router.flat", [0, router.count])], [name("flat")])
    return name("flat")


def _add_chosen_experts(
    builder: GraphBuilder, place: str, part: str, mixture: Mixture, rows: str, weights: str, total: str, add_block: AddBlock
) -> str:
    """`total` float32 [1, rows, H] plus, for each row, the weighted experts it chose, in the order of their numbers.

    `rows` is float32 [1, rows, H]. Each expert runs on its own rows only, and not at all without any: QMoE does the same in one operator,
    but a row's sum there depends on the rows beside it.
    """

    def name(what: str) -> str:
        return f"{part}.experts.{what}"

    count, hidden_size = mixture.router.matrix.shape
    columns = [f"{part}.expert.{number}.weights" for number in range(count)]
    any_rows = [f"{part}.expert.{number}.any" for number in range(count)]
    builder.add_node("Transpose", [weights], [name("weights")], perm=[1, 0])
    builder.add_node("Split", [name("weights")], columns, axis=0, num_outputs=count)
    builder.add_node("ReduceMax", [weights, builder.constant("experts.rows", [0])], [name("largest")], keepdims=0)
    builder.add_node("Cast", [name("largest")], [name("any")], to=TensorProto.BOOL)
    builder.add_node("Split", [name("any")], any_rows, axis=0, num_outputs=count)
    for expert in mixture.experts:
        output = f"{part}.expert.{expert.number}.total"

        def then(expert: Expert = expert, total: str = total) -> str:
            return _add_expert(builder, place, expert, rows, columns[expert.number], total, add_block)

        builder.add_if(any_rows[expert.number], total, output, then, [1, "rows", hidden_size])
        total = output
    return total


def _add_expert(builder: GraphBuilder, place: str, expert: Expert, rows: str, weights: str, total: str, add_block: AddBlock) -> str:
    """`total` plus this expert's products, each times its row's weight of [1, rows]."""
    own_rows = f"{place}.{expert.block.input}"

    def name(what: str) -> str:
        return f"{own_rows.removesuffix('rows')}{what}"

    builder.add_node("NonZero", [weights], [name("places")])
    builder.add_node("Transpose", [name("places")], [name("at")], perm=[1, 0])  # (0, row) of each
    builder.add_node("GatherND", [rows, name("at")], [own_rows])
    output = add_block(expert.block, own_rows)
    builder.add_node("GatherND", [weights, name("at")], [name("flat")])
    builder.add_node("Unsqueeze", [name("flat"), builder.constant("experts.last", [-1])], [name("share")])
    builder.add_node("Mul", [output, name("share")], [name("part")])
    builder.add_node("ScatterND", [total, name("at"), name("part")], [name("sum")], reduction="add")
    return name("sum")
