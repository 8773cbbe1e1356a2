"""A mixture of experts in onnxruntime's operators: the router, and the experts that it chose."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import TensorProto

from protos.manifest import Experts
from quantize.layers.decoder import add_linear, add_swiglu
from quantize.layers.graph_builder import GraphBuilder


def add_router(builder: GraphBuilder, part: str, experts: Experts, rows: str) -> str:
    """float32 [rows, count]: each row's weight of each expert, zero of those not chosen, of float32 [rows, H].

    `part` has "router" [count, H] and "router_bias" [count]. All in float32. The bias has a say in the choice, and none in the weights.
    """

    def name(what: str) -> str:
        return f"{part}.router.{what}"

    builder.add_node("FusedMatMul", [rows, builder.weight(part, "router")], [name("logits")], fused=True, transB=1)
    builder.add_node("Sigmoid", [name("logits")], [name("scores")])
    builder.add_node("Add", [name("scores"), builder.weight(part, "router_bias")], [name("merit")])
    builder.add_node("Shape", [name("scores")], [name("shape")])
    builder.add_node("ConstantOfShape", [name("shape")], [name("zeros")])
    merit = name("merit") if experts.groups == 1 else _add_best_groups(builder, part, experts, name("merit"))
    builder.add_node("TopK", [merit, builder.constant("router.k", [experts.per_token])], [name("best"), name("chosen")], axis=-1)
    builder.add_node("GatherElements", [name("scores"), name("chosen")], [name("raw")], axis=1)
    weights = name("raw")
    last = builder.constant("router.last", [-1])
    if experts.normalized:
        builder.add_node("ReduceSum", [weights, last], [name("sum")], keepdims=1)
        builder.add_node("Add", [name("sum"), builder.float_constant("router.least", [1e-20])], [name("divisor")])
        builder.add_node("Div", [weights, name("divisor")], [name("shares")])
        weights = name("shares")
    builder.add_node("Mul", [weights, builder.float_constant("router.scale", [experts.scale])], [name("scaled")])
    builder.add_node("ScatterElements", [name("zeros"), name("chosen"), name("scaled")], [name("weights")], axis=1)
    return name("weights")


def _add_best_groups(builder: GraphBuilder, part: str, experts: Experts, merit: str) -> str:
    """`merit`, minus infinity outside the best groups. A group is as good as its two best experts."""

    def name(what: str) -> str:
        return f"{part}.router.groups.{what}"

    size = experts.count // experts.groups
    last = builder.constant("router.last", [-1])
    builder.add_node("Reshape", [merit, builder.constant("router.groups", [0, experts.groups, size])], [name("merit")])
    builder.add_node("TopK", [name("merit"), builder.constant("router.two", [2])], [name("two"), name("which")], axis=-1)
    builder.add_node("ReduceSum", [name("two"), last], [name("sums")], keepdims=0)
    builder.add_node(
        "TopK", [name("sums"), builder.constant("router.best", [experts.groups_per_token])], [name("top"), name("best")], axis=-1
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
    builder.add_node("Reshape", [name("masked"), builder.constant("router.flat", [0, experts.count])], [name("flat")])
    return name("flat")


def add_chosen_experts(
    builder: GraphBuilder, part: str, experts: Experts, groups: Iterable[tuple[str, range]], rows: str, weights: str, total: str
) -> str:
    """`total` float32 [1, rows, H] plus, for each row, the weighted experts it chose, in the order of their numbers.

    `rows` is float32 [1, rows, H]; `groups` gives parts and the numbers of their experts, whose matrices are "N.gate_up" and "N.down".
    Each expert runs on its own rows only, and not at all without any: QMoE does the same in one operator, but a row's sum there depends on
    the rows beside it.
    """

    def name(what: str) -> str:
        return f"{part}.experts.{what}"

    columns = [f"{part}.expert.{number}.weights" for number in range(experts.count)]
    any_rows = [f"{part}.expert.{number}.any" for number in range(experts.count)]
    builder.add_node("Transpose", [weights], [name("weights")], perm=[1, 0])
    builder.add_node("Split", [name("weights")], columns, axis=0, num_outputs=experts.count)
    builder.add_node("ReduceMax", [weights, builder.constant("experts.rows", [0])], [name("largest")], keepdims=0)
    builder.add_node("Cast", [name("largest")], [name("any")], to=TensorProto.BOOL)
    builder.add_node("Split", [name("any")], any_rows, axis=0, num_outputs=experts.count)
    for group, numbers in groups:
        for number in numbers:
            output = f"{part}.expert.{number}.total"

            def then(group: str = group, number: int = number, total: str = total) -> str:
                return _add_expert(builder, group, number, rows, columns[number], total)

            builder.add_if(any_rows[number], total, output, then, [1, "rows", builder.config.hidden_size])
            total = output
    return total


def _add_expert(builder: GraphBuilder, part: str, number: int, rows: str, weights: str, total: str) -> str:
    """`total` plus this expert's products, each times its row's weight of [1, rows]."""

    def name(what: str) -> str:
        return f"{part}.{number}.{what}"

    builder.add_node("NonZero", [weights], [name("places")])
    builder.add_node("Transpose", [name("places")], [name("at")], perm=[1, 0])  # (0, row) of each
    builder.add_node("GatherND", [rows, name("at")], [name("rows")])
    product = add_swiglu(builder, part, add_linear(builder, part, f"{number}.gate_up", name("rows")), f"{number}.")
    output = add_linear(builder, part, f"{number}.down", product)
    builder.add_node("GatherND", [weights, name("at")], [name("flat")])
    builder.add_node("Unsqueeze", [name("flat"), builder.constant("experts.last", [-1])], [name("share")])
    builder.add_node("Mul", [output, name("share")], [name("part")])
    builder.add_node("ScatterND", [total, name("at"), name("part")], [name("sum")], reduction="add")
    return name("sum")
