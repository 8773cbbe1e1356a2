"""Nodes and reference compute the same of a layer that no family has: they know operators, not families."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from protos.ids import digest_of
from protos.manifest import Blob, Cost, Manifest, ModelConfig, Part, Provenance, Quantization, Tensor, Variant
from quantize.layers.graph_builder import GraphBuilder
from quantize.layers.onnx_nodes import Residual, add_block, add_layer
from quantize.layers.operators import (
    INPUT,
    Add,
    Attention,
    Block,
    Cache,
    Gelu,
    Linear,
    Norm,
    Operator,
    Rope,
    Rotary,
    SplitHeads,
    TensorParameter,
    caches,
    parameters,
)
from quantize.layers.positions import rotary_tables
from quantize.layers.reference import BlockRun, Doubles
from quantize.parts import POSITIONS
from tests.quantize.stages import session

Floats = npt.NDArray[np.float32]
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDTH, TOKENS = 48, 4, 2, 16, 80, 6
CONFIG = ModelConfig("none", HIDDEN, 1, HEADS, KV_HEADS, HEAD_DIM, WIDTH, 10, 1e-5, 1e4, HEAD_DIM, True, True, 32, (), rotary_halves=True)
ROTARY = Rotary(HEAD_DIM, 1e4, halves=True)
_SIZE = HEADS * HEAD_DIM
_KV_SCALES = Cache(TensorParameter("", "k_scale", (KV_HEADS * HEAD_DIM,)), TensorParameter("", "v_scale", (KV_HEADS * HEAD_DIM,)))


def matrix(name: str, source: str, rows: int, columns: int, *, bias: bool = False) -> Linear:
    return Linear(
        source, name, TensorParameter("", f"{name}.weight", (rows, columns)), TensorParameter("", f"{name}.bias", (rows,)) if bias else None
    )


# Attention and MLP side by side on one layer norm; one norm of the query heads and none of the keys'; what a norm reads is read again.
PARALLEL = Block(
    (
        Norm(INPUT, "normed.out", TensorParameter("", "norm.gain", (HIDDEN,)), TensorParameter("", "norm.bias", (HIDDEN,)), 1e-5),
        matrix("qkv", "normed.out", _SIZE + 2 * KV_HEADS * HEAD_DIM, HIDDEN, bias=True),
        SplitHeads("qkv", "q", "k", "v", HEADS, KV_HEADS, HEAD_DIM),
        Norm("q", "q.normed", TensorParameter("", "q_norm", (HEAD_DIM,)), None, 1e-5, HEADS),
        Rope("q.normed", "q.turned", ROTARY),
        Rope("k", "k.turned", ROTARY),
        Attention("q.turned", "k.turned", "v", "attended", HEADS, KV_HEADS, HEAD_DIM, True, _KV_SCALES),
        matrix("o", "attended", HIDDEN, _SIZE),
        matrix("up", "normed.out", WIDTH, HIDDEN, bias=True),
        Gelu("up", "activated", WIDTH),
        matrix("down", "activated", HIDDEN, WIDTH),
        Add(INPUT, "o", "first"),
        Add("first", "down", "second"),
    ),
    "second",
)


def weights_of(block: Block) -> dict[str, Floats]:
    random = np.random.default_rng(5)
    scales = [scale for cache in caches(block) for scale in (cache.key_scale, cache.value_scale)]
    made = {each.path: random.normal(size=each.shape) / np.sqrt(each.shape[-1]) for each in (*parameters(block), *scales)}
    return {name: (1 + values if name.endswith(("gain", "_norm")) else values).astype(np.float32) for name, values in made.items()}


def stored(tensors: dict[str, dict[str, Floats]], folder: Path) -> Manifest:
    """Parts of float32 tensors, their blobs in `folder`."""
    parts = []
    for part, values in tensors.items():
        data = b"".join(array.tobytes() for array in values.values())
        blob = Blob(digest_of(data), len(data))
        (folder / blob.digest).write_bytes(data)
        offsets = np.cumsum([0, *(array.nbytes for array in values.values())])
        kept = tuple(Tensor(name, "float32", array.shape, 0, int(at)) for (name, array), at in zip(values.items(), offsets, strict=False))
        parts.append(Part(part, Cost(0, 0, 0, 0), (Variant("float32", (blob,), kept),)))
    return Manifest(CONFIG, Quantization(32, 0, True), Provenance("", "", ""), tuple(parts), ())


def expected(block: Block, weights: dict[str, Floats], hidden: Doubles) -> Doubles:
    run, product = BlockRun(hidden.copy(), weights), None
    steps = run.steps(block)
    with suppress(StopIteration):
        while True:
            name, states = next(steps) if product is None else steps.send(product)
            product = states @ weights[name].T.astype(np.float64) + weights.get(f"{name.removesuffix('weight')}bias", 0)
    return run.hidden


def computed(block: Block, weights: dict[str, Floats], hidden: Doubles, folder: Path, operators: list[str]) -> Floats:
    """By onnxruntime; `operators` gets the names of the nodes'."""
    tables = dict(zip(("cos", "sin"), rotary_tables(CONFIG), strict=True))
    builder = GraphBuilder(stored({"layers.0": weights, POSITIONS: tables}, folder), 0, "float32")
    builder.add_input("hidden_in", TensorProto.FLOAT, ["batch", "sequence", HIDDEN])
    for name in ("seqlens_k", "total_sequence_length"):
        builder.add_input(name, TensorProto.INT32, [1])
    residual = add_layer(builder, "layers.0", block, Residual.begin(builder, "hidden_in"))
    builder.add_node("Add", [residual.stream, residual.branch], ["hidden_out"])
    builder.add_output("hidden_out", TensorProto.FLOAT, ["batch", "sequence", HIDDEN])
    graph = builder.serialize("test")
    operators += [node.op_type for node in onnx.load_model_from_string(graph).graph.node]
    binding = (opened := session(graph, folder)).io_binding()
    binding.bind_cpu_input("hidden_in", hidden[None].astype(np.float32))
    binding.bind_cpu_input("seqlens_k", np.array([len(hidden) - 1], np.int32))
    binding.bind_cpu_input("total_sequence_length", np.array([len(hidden)], np.int32))
    for what in ("key", "value"):
        cache = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, KV_HEADS, TOKENS, HEAD_DIM), np.float32))
        binding.bind_ortvalue_input(f"past_{what}.0", cache)
        binding.bind_ortvalue_output(f"present_{what}.0", cache)
    binding.bind_output("hidden_out")
    opened.run_with_iobinding(binding)
    result: Floats = binding.copy_outputs_to_cpu()[-1][0]
    return result


def test_a_layer_of_no_family_is_the_same_in_both(tmp_path: Path) -> None:
    weights, hidden = weights_of(PARALLEL), np.random.default_rng(6).normal(size=(TOKENS, HIDDEN))
    operators: list[str] = []
    found = computed(PARALLEL, weights, hidden, tmp_path, operators)
    assert np.abs(found - expected(PARALLEL, weights, hidden)).max() < 1e-4
    assert operators.count("Split") == 1  # of the heads, for a norm has to see them apart
    assert operators.count("Add") == 4  # two biases, the sum that no norm makes, the last


def test_heads_stay_together_where_nothing_comes_between(tmp_path: Path) -> None:
    plain = tuple(
        replace(operator, input="q") if operator == Rope("q.normed", "q.turned", ROTARY) else operator
        for operator in PARALLEL.operators
        if not (isinstance(operator, Norm) and operator.heads)
    )
    block = replace(PARALLEL, operators=plain)
    weights, hidden = weights_of(block), np.random.default_rng(6).normal(size=(TOKENS, HIDDEN))
    operators: list[str] = []
    assert np.abs(computed(block, weights, hidden, tmp_path, operators) - expected(block, weights, hidden)).max() < 1e-4
    assert "Split" not in operators


def refused(operators: tuple[Operator, ...], tmp_path: Path) -> None:
    weights = weights_of(PARALLEL)
    builder = GraphBuilder(stored({"layers.0": weights}, tmp_path), 0, "float32")
    add_block(builder, "layers.0", Block(operators, operators[-1].output if not isinstance(operators[-1], SplitHeads) else "q"), "in")


def test_heads_that_turn_must_go_to_attention_and_alike(tmp_path: Path) -> None:
    split, attention = PARALLEL.operators[2], PARALLEL.operators[6]
    assert isinstance(split, SplitHeads)
    assert isinstance(attention, Attention)
    split = replace(split, input=INPUT)
    queries, keys = Rope("q", "q.turned", ROTARY), Rope("k", "k.turned", replace(ROTARY, theta=5.0))
    with pytest.raises(AssertionError, match="only attention turns heads"):
        refused((split, queries, Gelu("q.turned", "activated", _SIZE)), tmp_path)
    with pytest.raises(AssertionError, match="turn alike"):
        refused((split, queries, keys, attention), tmp_path)
    with pytest.raises(AssertionError, match="turn alike"):
        refused((split, queries, replace(attention, keys="k")), tmp_path)
