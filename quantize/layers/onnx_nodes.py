"""Blocks as nodes of an ONNX graph, in onnxruntime's fused operators.

Weights decide how they are computed with: int8 blocks by MatMulNBits and GatherBlockQuantized, float32 matrices by plain operators. Three
things that a block says in steps are one node here, so they wait until it is known which: a sum of the residual stream is made by the norm
behind it, heads are cut apart and turned by the attention that reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from onnx import TensorProto

from quantize.blocks import padded
from quantize.layers.graph_builder import GraphBuilder
from quantize.layers.onnx_attention import add_attention, add_turn
from quantize.layers.onnx_experts import add_mixture
from quantize.layers.operators import (
    Add,
    Attention,
    Block,
    Embed,
    Gelu,
    Join,
    LearnedPositions,
    Linear,
    Mixture,
    Norm,
    Operator,
    Rope,
    Rotary,
    Split,
    SplitHeads,
    SwiGlu,
)


@dataclass(frozen=True)
class Residual:
    """The residual stream before the sum that the next norm will make: value = stream + branch.

    SkipSimplifiedLayerNormalization(a, b) and SimplifiedLayerNormalization(a + b) round differently, and a cut must not show. So the
    first norm of a stage is the fused one too, with zeros for the branch: x + 0 is x.
    """

    stream: str
    branch: str

    @staticmethod
    def begin(builder: GraphBuilder, hidden: str) -> Residual:
        builder.add_node("Shape", [hidden], ["residual.shape"])
        builder.add_node("ConstantOfShape", ["residual.shape"], ["residual.zeros"])
        return Residual(hidden, "residual.zeros")


@dataclass(frozen=True)
class _Packed:
    """Queries, keys or values that are still together in the tensor `qkv`."""

    qkv: str
    split: SplitHeads


# A rotation stands for its own output: attention turns its heads.
_Value: TypeAlias = str | Residual | _Packed | Rope


def add_block(builder: GraphBuilder, place: str, block: Block, given: str, outputs: Mapping[str, str] | None = None) -> str:
    """The tensor of the block's output, its input being the tensor `given`: int64 [batch, sequence] or float32 [..., H].

    `place` ("layers.3", "head") goes before the names of parts and values; `outputs` has values that are called otherwise.
    """
    nodes = _Nodes(builder, place, {block.input: given}, outputs or {})
    nodes.add(block)
    return nodes.tensor(block.output)


def add_layer(builder: GraphBuilder, place: str, block: Block, given: Residual) -> Residual:
    """As `add_block`, of a block that ends in a sum of the residual stream."""
    nodes = _Nodes(builder, place, {block.input: given}, {})
    nodes.add(block)
    return nodes.residual(block.output)


class _Nodes:
    def __init__(self, builder: GraphBuilder, place: str, given: Mapping[str, _Value], outputs: Mapping[str, str]) -> None:
        self._builder = builder
        self._place = place
        self._values = dict(given)
        self._outputs = outputs

    def add(self, block: Block) -> None:
        for operator in block.operators:
            self._add(operator)

    def tensor(self, value: str) -> str:
        found = self._values[value]
        if isinstance(found, _Packed):
            self._split(found)
            found = self._values[value]
        if isinstance(found, Residual):
            found = self._values[value] = self._node("Add", [found.stream, found.branch], self._name(value))
        assert isinstance(found, str), f"only attention turns heads here, and {value} is read by another"
        return found

    def residual(self, value: str) -> Residual:
        found = self._values[value]
        assert isinstance(found, Residual)
        return found

    def _add(self, operator: Operator) -> None:
        values = self._values
        match operator:
            case Embed():
                values[operator.output] = self._embed(operator)
            case LearnedPositions():
                values[operator.output] = self._learned_positions(operator)
            case Norm():
                values[operator.output] = self._norm(operator)
            case Linear():
                values[operator.output] = self._linear(operator)
            case SplitHeads():
                packed = _Packed(self.tensor(operator.input), operator)
                values |= dict.fromkeys((operator.queries, operator.keys, operator.values), packed)
            case Split():
                outputs = [name or f"{operator.input}.rest.{place}" for place, name in enumerate(operator.outputs)]
                self._cut(self.tensor(operator.input), outputs, operator.widths, self._name(f"{operator.input}.sizes"))
            case Join():
                parts = [self.tensor(name) for name in operator.inputs]
                values[operator.output] = self._node("Concat", parts, self._name(operator.output), axis=-1)
            case Rope():
                values[operator.output] = operator
            case Attention():
                values[operator.output] = self._attention(operator)
            case SwiGlu():
                values[operator.output] = self._swiglu(operator)
            case Gelu():
                values[operator.output] = self._node("Gelu", [self.tensor(operator.input)], self._name(operator.output), approximate="none")
            case Add():
                values[operator.output] = Residual(self.tensor(operator.stream), self.tensor(operator.branch))
            case Mixture():
                given = self.tensor(operator.input)
                values[operator.output] = add_mixture(self._builder, self._place, operator, given, self._nested)
            case _:
                assert_never(operator)

    def _nested(self, block: Block, given: str) -> str:
        return add_block(self._builder, self._place, block, given)

    def _name(self, value: str) -> str:
        return self._outputs.get(value, f"{self._place}.{value}")

    def _part(self, part: str) -> str:
        return f"{self._place}.{part}" if part else self._place

    def _node(self, operator: str, inputs: list[str], output: str, *, fused: bool = False, **attributes: int | float | str) -> str:
        self._builder.add_node(operator, inputs, [output], fused=fused, **attributes)
        return output

    def _embed(self, embed: Embed) -> str:
        """float32 [batch, sequence, H]; rows are dequantized as they are gathered."""
        builder, place, hidden_size = self._builder, self._place, embed.table.shape[1]
        table, ids = builder.weight(place, embed.table.name), self.tensor(embed.input)
        if builder.is_float(place, embed.table.name):
            return self._node("Gather", [table, ids], f"{place}.out", axis=0)
        rows = self._node(
            "GatherBlockQuantized",
            [table, ids, builder.weight(place, "scales")],
            f"{place}.rows",
            fused=True,
            bits=8,
            block_size=builder.block_size,
            gather_axis=0,
            quantize_axis=1,
        )
        if padded(hidden_size, builder.block_size) == hidden_size:
            return rows
        starts, ends = builder.constant(f"{place}.start", [0]), builder.constant(f"{place}.end", [hidden_size])
        return self._node("Slice", [rows, starts, ends, builder.constant(f"{place}.axis", [2])], f"{place}.out")

    def _learned_positions(self, positions: LearnedPositions) -> str:
        """`position_ids` int64 [batch, sequence, tables] is a further input of the graph."""
        builder, rows, count = self._builder, self.tensor(positions.input), len(positions.tables)
        builder.add_input("position_ids", TensorProto.INT64, ["batch", "sequence", count])
        names = [table.name.removesuffix("s") for table in positions.tables]
        builder.add_node("Split", ["position_ids"], names, axis=2, num_outputs=count)
        for name, table in zip(names, positions.tables, strict=True):
            self._node("Squeeze", [name, builder.constant("position.axis", [2])], f"{name}.ids")
            self._node("Gather", [builder.weight(self._place, table.name), f"{name}.ids"], f"{name}.rows", axis=0)
            rows = self._node("Add", [rows, f"{name}.rows"], f"{name}.sum")
        return rows

    def _norm(self, norm: Norm) -> str:
        if norm.heads:
            return self._norm_of_heads(norm)
        found = self._values[norm.input]
        if not isinstance(found, Residual):
            return self._plain_norm(norm, self.tensor(norm.input), self._name(norm.output))
        # The norm makes the sum too, which is the residual stream from here on.
        normed, total = self._name(norm.output), f"{self._name(norm.output).removesuffix('.out')}.sum"
        self._builder.add_node(
            "SkipLayerNormalization" if norm.bias else "SkipSimplifiedLayerNormalization",
            [found.stream, found.branch, *self._norm_weights(norm)],
            [normed, "", "", total],
            fused=True,
            epsilon=norm.epsilon,
        )
        self._values[norm.input] = total
        return normed

    def _norm_of_heads(self, norm: Norm) -> str:
        """Over each of the heads that make up a row."""
        builder, rows = self._builder, self.tensor(norm.input)
        shape = [0, 0, norm.heads, norm.gain.shape[0]]
        heads = self._node("Reshape", [rows, builder.constant(f"{norm.gain.name}.heads", shape)], f"{rows}.heads")
        normed = self._plain_norm(norm, heads, self._name(f"{norm.gain.path}.out"))
        return self._node("Reshape", [normed, builder.constant("heads.flat", [0, 0, -1])], self._name(norm.output))

    def _plain_norm(self, norm: Norm, rows: str, output: str) -> str:
        """Over the last axis."""
        weights = self._norm_weights(norm)
        if norm.bias:
            return self._node("LayerNormalization", [rows, *weights], output, axis=-1, epsilon=norm.epsilon)
        return self._node(
            "SimplifiedLayerNormalization", [rows, *weights], output, axis=-1, epsilon=norm.epsilon, stash_type=TensorProto.FLOAT
        )

    def _norm_weights(self, norm: Norm) -> list[str]:
        both = (norm.gain, norm.bias)
        return [self._builder.weight(self._part(parameter.part), parameter.name) for parameter in both if parameter]

    def _linear(self, linear: Linear) -> str:
        builder, part, name = self._builder, self._part(linear.weight.part), linear.weight.name
        rows, columns = linear.weight.shape
        value, output = self.tensor(linear.input), self._name(linear.output)
        bias = builder.weight(part, linear.bias.name) if linear.bias else ""
        weight = builder.weight(part, name)
        if builder.is_float(part, name):
            product = self._node("FusedMatMul", [value, weight], f"{output}.product" if bias else output, fused=True, transB=1)
            return self._node("Add", [product, bias], output) if bias else product
        zero_points, scales = (name.removesuffix("weight") + what for what in ("zero_points", "scales"))
        zeros = builder.weight(part, zero_points) if builder.has_weight(part, zero_points) else ""
        return self._node(
            "MatMulNBits",
            [value, weight, builder.weight(part, scales), zeros, *(["", bias] if bias else [])],
            output,
            fused=True,
            K=columns,
            N=rows,
            bits=builder.bits(part, name),
            block_size=builder.block_size,
            accuracy_level=builder.accuracy_level,
        )

    def _split(self, packed: _Packed) -> None:
        split = packed.split
        sizes = [count * split.head_dim for count in (split.heads, split.kv_heads, split.kv_heads)]
        self._cut(packed.qkv, (split.queries, split.keys, split.values), sizes, "qkv.sizes")

    def _cut(self, rows: str, values: Sequence[str], widths: Sequence[int], constant: str) -> None:
        names = [self._name(value) for value in values]
        self._builder.add_node("Split", [rows, self._builder.constant(constant, widths)], names, axis=-1)
        self._values |= zip(values, names, strict=True)

    def _attention(self, attention: Attention) -> str:
        """Grouped-query attention over the layer's cache, which is updated in place."""
        heads, rotary = self._heads(attention)
        return add_attention(self._builder, self._place, attention, heads, rotary, self._name(attention.output))

    def _heads(self, attention: Attention) -> tuple[list[str], Rotary | None]:
        """The operator's first three inputs, and how it turns queries and keys."""
        if attention.values_are_keys:
            queries, keys = self._turned(attention.queries, attention.heads), self._turned(attention.keys, attention.kv_heads)
            return [queries, keys, keys], None
        ropes = [self._values[name] for name in (attention.queries, attention.keys)]
        turned = [rope for rope in ropes if isinstance(rope, Rope)]
        assert len(turned) != 1, "queries and keys turn alike"
        assert all(rope.rotary == turned[0].rotary for rope in turned), "queries and keys turn alike"
        names = [*([rope.input for rope in turned] or (attention.queries, attention.keys)), attention.values]
        rotary = turned[0].rotary if turned else None
        first = self._values[names[0]]
        if isinstance(first, _Packed) and all(self._values[name] == first for name in names):
            return [first.qkv, "", ""], rotary
        return [self.tensor(name) for name in names], rotary

    def _turned(self, value: str, heads: int) -> str:
        """Turned before the operator, which would turn keys and not the values that they are."""
        found = self._values[value]
        if not isinstance(found, Rope):
            return self.tensor(value)
        return add_turn(self._builder, self.tensor(found.input), found.rotary, heads, self._name(found.output))

    def _swiglu(self, swiglu: SwiGlu) -> str:
        """SiLU of the first half times the second."""
        output = self._name(swiglu.output)
        gate, up, activated = (output.removesuffix("product") + what for what in ("gate", "up", "activated"))
        self._builder.add_node("Split", [self.tensor(swiglu.input)], [gate, up], axis=-1, num_outputs=2)
        self._node("QuickGelu", [gate], activated, fused=True, alpha=1.0)  # x * sigmoid(x): SiLU
        return self._node("Mul", [activated, up], output)
