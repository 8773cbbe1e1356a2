"""The libraries' own memory, taken when the agent starts and not with its first stage and answer."""

from __future__ import annotations

import numpy as np

from device.engine.session import run_once
from protos.v1 import graph_pb2

_ROWS = 64
_FLOAT = 1  # TensorProto.DataType
_OPSET = 17


def warm_up() -> None:
    """Open a session and run it once, and draw a number, which takes 60 ms.

    onnxruntime touches some 10 MiB of its code and registries with the first session and keeps them, numpy some 5 with the first draw of
    a sampler: taken later they would look like something that a stage had left behind, be missing in what the device says that it holds,
    and the first answer would wait for numpy's. Raises FleetError.
    """
    run_once(_product(), {"x": np.ones((_ROWS, _ROWS), np.float32)})
    np.random.Generator(np.random.Philox(key=0)).random()


def _product() -> bytes:
    model = graph_pb2.Model(ir_version=8, opset_import=[graph_pb2.OperatorSet(version=_OPSET)])
    model.graph.name = "warm-up"
    model.graph.node.add(input=["x", "x"], output=["y"], op_type="MatMul")
    for name, values in (("x", model.graph.input), ("y", model.graph.output)):
        tensor = values.add(name=name).type.tensor_type
        tensor.elem_type = _FLOAT
        for _ in range(2):
            tensor.shape.dim.add(dim_value=_ROWS)
    return model.SerializeToString()
