"""Sessions: what they refuse, and that what is bound is read and written in place."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from device.engine.session import Session, save_prepacked, scalar_like, share
from protos.errors import Internal, InvalidInput


def doubling() -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 3])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [value], [out])
    model: bytes = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString()
    return model


def test_bound_arrays_are_read_and_written_where_they_lie(tmp_path: Path) -> None:
    session = Session(doubling(), tmp_path, 1)
    x, y = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)
    binding = session.bind([("x", share(x))], [("y", share(y))])
    for value in (1, 5):
        x[...] = value
        binding.run()
        assert (y == 2 * value).all()


@pytest.mark.parametrize("graph", [b"", b"no graph", b"\x00" * 100, doubling()[:-9]], ids=["empty", "text", "zeros", "cut"])
def test_what_is_no_graph_is_refused_in_one_line(tmp_path: Path, graph: bytes) -> None:
    with pytest.raises(InvalidInput) as refused:
        Session(graph, tmp_path, 1)
    assert re.match("the stage graph is refused: |onnxruntime refuses the stage graph: ", refused.value.detail)
    assert "\n" not in refused.value.detail


def test_a_run_that_fails_is_one_line(tmp_path: Path) -> None:
    session = Session(doubling(), tmp_path, 1)
    wrong = share(np.zeros((2, 4), np.float32))
    with pytest.raises(Internal) as failed:
        session.bind([("x", wrong)], [("y", wrong)]).run()
    assert "\n" not in failed.value.detail


def test_inputs_and_outputs_must_be_those_expected(tmp_path: Path) -> None:
    session = Session(doubling(), tmp_path, 1)
    session.expect({"x": (None, 3)}, {"y": (7, 3)})  # the first is open in the graph
    for inputs, outputs, fault in (
        ({"x": (None, 3), "z": (1,)}, {"y": (None, 3)}, "inputs .* z"),
        ({"x": (None, 3)}, {}, "outputs .* y"),
        ({"x": (None, 4)}, {"y": (None, 3)}, "x is"),
        ({"x": (None, 3)}, {"y": (None, None, 3)}, "y is"),
    ):
        with pytest.raises(InvalidInput, match=fault):
            session.expect(inputs, outputs)


def test_a_scalar_has_the_rank_the_graph_says() -> None:
    assert scalar_like([]).shape == ()
    assert scalar_like([1]).shape == (1,)


def test_a_saved_graph_is_the_same_and_stands_alone(tmp_path: Path) -> None:
    target = tmp_path / "double.onnx"
    save_prepacked(doubling(), tmp_path / "blobs", 1, target)
    session = Session(b"not read", tmp_path / "none", 1, target)
    session.expect({"x": (None, 3)}, {"y": (None, 3)})
    x, y = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    session.bind([("x", share(x))], [("y", share(y))]).run()
    assert (y == 2).all()


def test_a_graph_that_cannot_be_saved_is_refused_in_one_line(tmp_path: Path) -> None:
    for graph, target in ((b"no graph", tmp_path / "a.onnx"), (doubling(), tmp_path / "no folder" / "a.onnx")):
        with pytest.raises(InvalidInput) as refused:
            save_prepacked(graph, tmp_path, 1, target)
        assert "\n" not in refused.value.detail
