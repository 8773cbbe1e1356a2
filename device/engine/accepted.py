"""Which stage graphs are let through to onnxruntime: those that are made as ours are, whoever sent them.

onnxruntime runs within the agent. A graph is a program for it, with operators that loop for ever, and with weights in files of its
choosing. So a graph is read here first, by the schema of protos/v1/graph.proto, and has to be of the operators that the graph builder
emits, over small constants and ranges of the stage's own blobs. What the accepted operators take while they run is not bounded here: that
is for the limit of the agent's memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from protos.errors import InvalidInput
from protos.v1 import graph_pb2 as pb

# By domain: those that quantize/layers and quantize/artifact/graph.py emit, and no others (tests/device/engine/test_accepted.py).
_STANDARD = """
Add Cast Concat ConstantOfShape Div Gather GatherElements GatherND Gelu Identity If LayerNormalization Max Min Mul NonZero Pad Range
ReduceMax ReduceSum Reshape ScatterElements ScatterND Shape Sigmoid SimplifiedLayerNormalization Slice Split Squeeze Sub TopK
Transpose Unsqueeze Where
"""
_FUSED = """
FusedMatMul GatherBlockQuantized GroupQueryAttention MatMulNBits QuickGelu RotaryEmbedding SkipLayerNormalization
SkipSimplifiedLayerNormalization
"""
ACCEPTED: Mapping[str, Set[str]] = {"": frozenset(_STANDARD.split()), "com.microsoft": frozenset(_FUSED.split())}
MOST_NODES = 1 << 20  # 92 layers of 160 experts have 200,000
MOST_DEPTH = 2  # an expert is a branch of the graph
MOST_VALUES = 4096  # of a constant within the graph: a number for each head
MOST_INTEGER = 1 << 24  # of a constant: a size or a position in a row
MOST_ELEMENTS = 1 << 26  # that a graph's inputs and outputs say they have, beside dimensions that they leave open

_FLOAT, _UINT8, _INT64 = 1, 2, 7  # onnx.proto3, TensorProto.DataType
_STORED_BYTES = {_FLOAT: 4, _UINT8: 1}
_INT, _STRING, _GRAPH, _INTS = 2, 3, 5, 7  # AttributeProto.AttributeType; FLOAT is 1, too
_BRANCHES = ("else_branch", "then_branch")
# Nothing grows by these, so they may have constants alone for inputs: onnxruntime computes what depends on nothing else while it loads.
_NEVER_LARGER = frozenset({"Cast", "Identity", "Squeeze", "Unsqueeze"})


def check_graph(graph: bytes, blobs: Mapping[str, int]) -> None:
    """`blobs`: bytes of each blob that it may point into, by name. Raises InvalidInput unless it is made as ours are. Blocks."""
    try:
        model = pb.Model.FromString(graph)
    except DecodeError as error:
        raise InvalidInput("it is not a graph") from error
    size = model.ByteSize()
    model.DiscardUnknownFields()
    if model.ByteSize() != size:
        raise InvalidInput("it has fields that our graphs do not have (functions, sparse or raw tensors, metadata)")
    domains = [opset.domain for opset in model.opset_import]
    if len(set(domains)) != len(domains) or not set(domains) <= ACCEPTED.keys():
        raise InvalidInput(f"it imports operators of {_shown(domains)}")
    reader = _Reader(blobs)
    reader.read(model.graph, None, 1)
    # Ours points at each weight once; a small graph that points at one a million times would be given a million copies.
    if reader.stored_bytes > sum(blobs.values()):
        raise InvalidInput(f"it takes {reader.stored_bytes:,} bytes of weights from blobs of {sum(blobs.values()):,}")


@dataclass
class _Scope:
    """Names that a graph's nodes may take, its own and those of the graphs around it."""

    outer: _Scope | None
    names: set[str]
    constants: set[str]

    def knows(self, name: str) -> bool:
        return name in self.names or (self.outer is not None and self.outer.knows(name))

    def is_constant(self, name: str) -> bool:
        """A name of this graph hides that of one around it."""
        return name in self.constants if name in self.names else self.outer is not None and self.outer.is_constant(name)


class _Reader:
    def __init__(self, blobs: Mapping[str, int]) -> None:
        self._blobs = blobs
        self._nodes = 0
        self.stored_bytes = 0

    def read(self, graph: pb.Graph, outer: _Scope | None, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise InvalidInput(f"it has graphs within graphs, more than {MOST_DEPTH} deep")
        for value in (*graph.input, *graph.output):
            _check_value(value)
        for constant in graph.initializer:
            self._check_constant(constant)
        constants = {constant.name for constant in graph.initializer}
        scope = _Scope(outer, constants | {value.name for value in graph.input}, constants)
        self._nodes += len(graph.node)
        if self._nodes > MOST_NODES:
            raise InvalidInput(f"it has more than {MOST_NODES:,} nodes")
        for node in graph.node:
            self._check_node(node, scope, depth)
            scope.names.update(node.output)

    def _check_node(self, node: pb.Node, scope: _Scope, depth: int) -> None:
        if node.op_type not in ACCEPTED.get(node.domain, ()):
            raise InvalidInput(f"the operator {_shown([node.domain, node.op_type])} is none of ours")
        inputs = [name for name in node.input if name]
        if unknown := [name for name in inputs if not scope.knows(name)]:
            raise InvalidInput(f"{_shown([node.op_type, node.name])} takes {_shown(unknown[:1])}, which no node before it gives")
        if all(map(scope.is_constant, inputs)):
            if node.op_type not in _NEVER_LARGER or not inputs:
                raise InvalidInput(f"{_shown([node.op_type, node.name])} computes from constants alone")
            scope.constants.update(node.output)
        for attribute in node.attribute:
            if attribute.type == _GRAPH:
                if node.op_type != "If" or attribute.name not in _BRANCHES:
                    raise InvalidInput(f"{_shown([node.op_type, attribute.name])} is a graph")
                self.read(attribute.g, scope, depth + 1)
            elif not 1 <= attribute.type <= _STRING and attribute.type != _INTS:
                raise InvalidInput(f"{_shown([node.op_type, attribute.name])} is of a kind that our graphs do not have")
            if len(attribute.s) > 64 or len(attribute.ints) > 16:
                raise InvalidInput(f"{_shown([node.op_type, attribute.name])} is too long")
            _check_integers([attribute.i, *attribute.ints])

    def _check_constant(self, constant: pb.Constant) -> None:
        name, values = _shown([constant.name]), len(constant.int64_data) + len(constant.float_data)
        if any(size < 0 for size in constant.dims):
            raise InvalidInput(f"the constant {name} has a negative size")
        if not constant.data_location and not constant.external_data:
            if constant.data_type not in (_FLOAT, _INT64) or list(constant.dims) != [values] or values > MOST_VALUES:
                raise InvalidInput(f"the constant {name} is not a short list of numbers")
            _check_integers(constant.int64_data)
            return
        place = {entry.key: entry.value for entry in constant.external_data}
        if values or place.keys() != {"location", "offset", "length"} or len(constant.external_data) != len(place):
            raise InvalidInput(f"the weight {name} does not say where it lies as ours do")
        offset, length = (_number(place[key]) for key in ("offset", "length"))
        if place["location"] not in self._blobs:
            raise InvalidInput(f"the weight {name} lies in {_shown([place['location']])}, which is no blob of this stage")
        wanted = math.prod(constant.dims) * _STORED_BYTES.get(constant.data_type, 0)
        if not 0 < length == wanted or not 0 <= offset <= self._blobs[place["location"]] - length:
            raise InvalidInput(f"the weight {name} is not of the size that it has in its blob")
        self.stored_bytes += length


def _check_value(value: pb.Value) -> None:
    """Of an input or output."""
    known = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim if dimension.HasField("dim_value")]
    if any(size < 0 for size in known) or math.prod(known) > MOST_ELEMENTS:
        raise InvalidInput(f"{_shown([value.name])} is larger than an input or output of ours")


def _check_integers(values: Iterable[int]) -> None:
    if any(abs(value) > MOST_INTEGER for value in values):
        raise InvalidInput(f"it has a constant beyond {MOST_INTEGER:,}")


def _number(text: str) -> int:
    """-1 for what is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 19 else -1


def _shown(words: Iterable[str]) -> str:
    """A stranger's words within a line of ours."""
    return repr(" ".join(filter(None, words))[:80])
