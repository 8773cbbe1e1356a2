"""Collects nodes, inputs, outputs and external initializers into one ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import GraphProto, ModelProto, TensorProto, helper

from protos.dtypes import KvDtype
from protos.manifest import Manifest, Tensor, Variant
from quantize.parts import find_part

_DTYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}
# IR 10 with opset 21 is read by every onnxruntime since 1.18.
_IR_VERSION, _OPSET = 10, 21


class GraphBuilder:
    def __init__(self, manifest: Manifest, accuracy_level: int, kv_dtype: KvDtype, slots: int = 0) -> None:
        """`slots`: so many attentions in each layer, each over its own cache; 0: one, over the caches of a batch."""
        self.block_size = manifest.quantization.block_size
        self.accuracy_level = accuracy_level
        self.kv_dtype = kv_dtype
        self.slots = slots
        self._manifest = manifest
        self._graph = GraphProto()
        self._scope = self._graph  # that nodes go into
        self._initializers: set[str] = set()
        self._asked: set[str] = set()

    def add_input(self, name: str, dtype: int, shape: Sequence[int | str]) -> None:
        self._graph.input.append(helper.make_tensor_value_info(name, dtype, shape))

    def add_output(self, name: str, dtype: int, shape: Sequence[int | str]) -> None:
        self._graph.output.append(helper.make_tensor_value_info(name, dtype, shape))

    def add_node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        fused: bool = False,
        **attributes: int | float | str | Sequence[int],
    ) -> None:
        """`fused`: one of com.microsoft's operators. "" is an input or output left out."""
        name = f"{operator}:{next(filter(None, outputs))}"
        node = helper.make_node(operator, inputs, outputs, name, domain="com.microsoft" if fused else "")
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self._scope.node.append(node)

    def add_if(self, condition: str, value: str, output: str, then: Callable[[], str], shape: Sequence[int | str]) -> None:
        """`output`, float32 of `shape`, is what the nodes that `then` adds make of it where `condition` holds, and else `value`."""
        outer = self._scope
        self._scope = taken = GraphProto(name=f"{output}.then")
        result = then()
        self._scope = outer
        taken.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, shape))
        left = GraphProto(name=f"{output}.else")
        left.node.append(helper.make_node("Identity", [value], [f"{output}.kept"], f"Identity:{output}"))
        left.output.append(helper.make_tensor_value_info(f"{output}.kept", TensorProto.FLOAT, shape))
        node = helper.make_node("If", [condition], [output], f"If:{output}")
        node.attribute.extend(helper.make_attribute(name, graph) for name, graph in (("then_branch", taken), ("else_branch", left)))
        self._scope.node.append(node)

    def first(self, name: str) -> bool:
        """Whether it was never asked for before: of what a graph needs once."""
        known = name in self._asked
        self._asked.add(name)
        return not known

    def weight(self, part: str, tensor: str) -> str:
        """The name of the initializer for this stored tensor; declared at the first call."""
        name = f"{part}.{tensor}"
        if name not in self._initializers:
            self._initializers.add(name)
            self._graph.initializer.append(self._external(name, part, tensor))
        return name

    def has_weight(self, part: str, tensor: str) -> bool:
        return any(stored.name == tensor for stored in find_part(self._manifest, part).variants[0].tensors)

    def is_float(self, part: str, tensor: str) -> bool:
        """Whether this tensor is stored as it is, and not by int8 blocks."""
        return self._stored(part, tensor)[1].dtype == "float32"

    def bits(self, part: str, tensor: str) -> int:
        """Of each weight of a matrix that is stored by blocks."""
        *_, block_bytes = self._stored(part, tensor)[1].shape
        return 8 * block_bytes // self.block_size

    def constant(self, name: str, values: Sequence[int]) -> str:
        """A small int64 [n] initializer kept in the graph itself; declared at the first call."""
        return self._constant(name, TensorProto.INT64, values)

    def float_constant(self, name: str, values: Sequence[float]) -> str:
        """A small float32 [n] initializer, as `constant`."""
        return self._constant(name, TensorProto.FLOAT, values)

    def _constant(self, name: str, dtype: int, values: Sequence[int] | Sequence[float]) -> str:
        if name not in self._initializers:
            self._initializers.add(name)
            self._graph.initializer.append(helper.make_tensor(name, dtype, [len(values)], values))
        return name

    def serialize(self, name: str) -> bytes:
        self._graph.name = name
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = ModelProto(ir_version=_IR_VERSION, opset_import=opsets, producer_name="glmfleet", graph=self._graph)
        return model.SerializeToString(deterministic=True)

    def _external(self, name: str, part: str, tensor: str) -> TensorProto:
        variant, stored = self._stored(part, tensor)
        proto = TensorProto(name=name, data_type=_DTYPES[stored.dtype], dims=stored.shape, data_location=TensorProto.EXTERNAL)
        place = {"location": variant.blobs[stored.blob].digest, "offset": stored.offset, "length": stored.size_bytes}
        for key, value in place.items():
            proto.external_data.add(key=key, value=str(value))
        return proto

    def _stored(self, part: str, tensor: str) -> tuple[Variant, Tensor]:
        variant = find_part(self._manifest, part).variants[0]
        return variant, next(stored for stored in variant.tensors if stored.name == tensor)
