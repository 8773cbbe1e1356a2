"""What is let through to onnxruntime: all that the graph builder makes, and nothing that is made otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper

from device.engine import session
from device.engine.accepted import ACCEPTED, check_graph
from device.engine.opening import open_stage
from device.stage_spec import StageSpec
from protos.errors import InvalidInput
from protos.manifest import Manifest
from quantize.artifact.graph import build_stage_graph
from quantize.artifact.store import ArtifactStore
from quantize.layers.onnx_attention import has_slots
from quantize.parts import EMBEDDING, HEAD, stage_parts
from tests.support.blanks import blank_model
from tests.support.checkpoints import TinyGlm
from tests.support.goldens import NAMES, import_golden
from tests.support.stage_specs import TinyStages

BLOB = "0" * 64
SIZES = {BLOB: 400}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> TinyStages:
    return TinyStages.make(tmp_path_factory.mktemp("model"))


@pytest.fixture
def spec(stages: TinyStages) -> StageSpec:
    [spec] = stages.specs(golden_from=stages.blob_folder)
    return spec


def graphs_of(manifest: Manifest) -> Iterator[bytes]:
    for kv_dtype in ("float32", "int8"):
        if kv_dtype == "int8" and manifest.config.prefix_whole:
            continue
        for parts in ([HEAD], [EMBEDDING], [EMBEDDING, *stage_parts(manifest, 0, manifest.config.layers)], stage_parts(manifest, 1, 2)):
            for layer_outputs in (False, True):
                yield build_stage_graph(manifest, parts, kv_dtype=kv_dtype, layer_outputs=layer_outputs)
        if has_slots(manifest.config, kv_dtype):
            yield build_stage_graph(manifest, stage_parts(manifest, 1, 2), kv_dtype=kv_dtype, slots=4)


def operators(graph: GraphProto) -> Iterator[tuple[str, str]]:
    for node in graph.node:
        yield node.domain, node.op_type
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from operators(attribute.g)


@pytest.mark.parametrize("unrounded", [NAMES[:1], pytest.param(NAMES, marks=pytest.mark.long)], ids=len)
def test_all_that_is_built_is_accepted_and_nothing_else_is_on_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unrounded: list[str]
) -> None:
    """Of golden models, of one that fills blanks, and of one whose heads are wider than the kernel's tiles."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    models = [import_golden(name, tmp_path / f"{name}-8") for name in NAMES]
    models += [import_golden(name, tmp_path / f"{name}-32", 32) for name in unrounded]
    models.append(blank_model(tmp_path / "blank"))
    wide = TinyStages.make(tmp_path / "wide", TinyGlm(head_dim=576, heads=2, kv_heads=1))
    found: set[tuple[str, str]] = set()
    for manifest, store in [*models, (wide.manifest, wide.store)]:
        assert isinstance(store, ArtifactStore)
        sizes = {digest: store.blob_path(digest).stat().st_size for digest in manifest.blobs()}
        for graph in graphs_of(manifest):
            check_graph(graph, {str(digest): size for digest, size in sizes.items()})
            found |= set(operators(onnx.load_model_from_string(graph).graph))
    assert found == {(domain, operator) for domain, accepted in ACCEPTED.items() for operator in accepted}


def small() -> ModelProto:
    """A graph that is accepted: x + w, w out of a blob."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[10, 10], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", BLOB), ("offset", "0"), ("length", "400")):
        weight.external_data.add(key=key, value=value)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 10]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "small", values[:1], values[1:], [weight])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)])


def place(model: ModelProto, **changed: str) -> None:
    for entry in model.graph.initializer[0].external_data:
        entry.value = changed.get(entry.key, entry.value)


def branch(*nodes: onnx.NodeProto) -> GraphProto:
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["rows", 10])])


def endless(model: ModelProto) -> None:
    body = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", TensorProto.INT64), ("c", TensorProto.BOOL))]
    again = helper.make_graph([helper.make_node("Identity", ["c"], ["d"])], "body", body, [helper.make_tensor_value_info("d", 9, [])])
    model.graph.node.append(helper.make_node("Loop", ["", "x"], [], body=again))


def in_a_branch(model: ModelProto) -> None:
    hidden = branch(helper.make_node("Foreign", ["x"], ["z"], domain="com.evil"))
    kept = branch(helper.make_node("Identity", ["x"], ["z"]))
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=kept, else_branch=hidden))


def deep(model: ModelProto) -> None:
    graph = branch(helper.make_node("Identity", ["x"], ["z"]))
    for _ in range(3):
        graph = branch(helper.make_node("If", ["x"], ["z"], then_branch=graph, else_branch=graph))
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=graph, else_branch=graph))


def as_a_function(model: ModelProto) -> None:
    opsets = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function("", "Gelu", ["a"], ["b"], [helper.make_node("Loop", ["a"], ["b"])], opsets))


def huge(model: ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("size", TensorProto.INT64, [2], [1 << 20, 1 << 20]))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["z"]))


def huge_by_a_detour(model: ModelProto) -> None:
    huge(model)
    [node] = model.graph.node[1:]
    node.input[0] = "squeezed"
    model.graph.node.insert(1, helper.make_node("Squeeze", ["size"], ["squeezed"]))


def huge_out_of_order(model: ModelProto) -> None:
    huge_by_a_detour(model)
    nodes = [model.graph.node[0], model.graph.node[2], model.graph.node[1]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def a_million_weights(model: ModelProto) -> None:
    for number in range(1000):
        again = model.graph.initializer.add()
        again.CopyFrom(model.graph.initializer[0])
        again.name = f"w{number}"


def sparse(model: ModelProto) -> None:
    values, indices = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0]), helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 40]))


def sequence_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))


HOSTILE: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "an operator that is none of ours": (lambda m: m.graph.node.append(helper.make_node("Det", ["x"], ["z"])), "'Det' is none of ours"),
    "a loop without an end": (endless, "'Loop' is none of ours"),
    "an operator of another library": (
        lambda m: m.graph.node.append(helper.make_node("Add", ["x", "x"], ["z"], domain="com.evil")),
        "'com.evil Add' is none of ours",
    ),
    "ours under another domain": (
        lambda m: m.graph.node.append(helper.make_node("MatMulNBits", ["x"], ["z"])),
        "'MatMulNBits' is none of ours",
    ),
    "such an operator in a branch": (in_a_branch, "'com.evil Foreign' is none of ours"),
    "branches in branches": (deep, "more than 2 deep"),
    "a function that replaces an operator": (as_a_function, "has fields that our graphs do not have"),
    "operators of another set": (lambda m: m.opset_import.append(helper.make_opsetid("com.evil", 1)), "imports operators"),
    "a file of the machine": (lambda m: place(m, location="../../../etc/shadow"), "no blob of this stage"),
    "an absolute path": (lambda m: place(m, location="/dev/zero"), "no blob of this stage"),
    "another model's blob": (lambda m: place(m, location="f" * 64), "no blob of this stage"),
    "behind the end of the blob": (lambda m: place(m, offset="4"), "not of the size"),
    "before its beginning": (lambda m: place(m, offset="-4"), "not of the size"),
    "a length that is not its shape's": (lambda m: place(m, length="396"), "not of the size"),
    "a length of many digits": (lambda m: place(m, length="9" * 4000), "not of the size"),
    "a shape larger than what is stored": (lambda m: m.graph.initializer[0].dims.append(1 << 40), "not of the size"),
    "a negative size": (lambda m: m.graph.initializer[0].dims.extend([-1, -1]), "negative size"),
    "a checksum beside the place": (lambda m: m.graph.initializer[0].external_data.add(key="checksum", value="x"), "does not say where"),
    "one blob a thousand times": (a_million_weights, "bytes of weights from blobs of 400"),
    "strings for weights": (lambda m: setattr(m.graph.initializer[0], "data_type", TensorProto.STRING), "not of the size"),
    "a long list of numbers": (
        lambda m: m.graph.initializer.append(helper.make_tensor("c", TensorProto.FLOAT, [5000], [0.0] * 5000)),
        "not a short list",
    ),
    "a constant of raw bytes": (
        lambda m: m.graph.initializer.append(TensorProto(name="c", data_type=1, dims=[1 << 40], raw_data=bytes(4))),
        "has fields that our graphs do not have",
    ),
    "fewer numbers than it says": (
        lambda m: m.graph.initializer.append(TensorProto(name="c", data_type=7, dims=[1 << 40], int64_data=[1])),
        "not a short list",
    ),
    "a sparse tensor": (sparse, "has fields that our graphs do not have"),
    "an input that is no tensor": (sequence_input, "has fields that our graphs do not have"),
    "a gigantic input": (
        lambda m: m.graph.input.append(helper.make_tensor_value_info("i", TensorProto.FLOAT, [1 << 40])),
        "larger than an input or output",
    ),
    "memory asked for at load": (huge, "computes from constants alone"),
    "the same by a detour": (huge_by_a_detour, "computes from constants alone"),
    "the same out of order": (huge_out_of_order, "no node before it gives"),
    "a huge constant": (
        lambda m: m.graph.initializer.append(helper.make_tensor("c", TensorProto.INT64, [1], [1 << 40])),
        "a constant beyond",
    ),
    "a huge attribute": (
        lambda m: m.graph.node.append(helper.make_node("Split", ["x"], ["z"], num_outputs=1 << 40)),
        "a constant beyond",
    ),
    "a tensor for an attribute": (
        lambda m: m.graph.node.append(
            helper.make_node("ConstantOfShape", ["x"], ["z"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]))
        ),
        "has fields that our graphs do not have",
    ),
    "metadata": (lambda m: m.metadata_props.add(key="k", value="v"), "has fields that our graphs do not have"),
}


def test_the_small_graph_is_accepted() -> None:
    check_graph(small().SerializeToString(), SIZES)


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_made_otherwise_is_refused(kind: str) -> None:
    change, fault = HOSTILE[kind]
    model = small()
    change(model)
    with pytest.raises(InvalidInput) as refused:
        check_graph(model.SerializeToString(), SIZES)
    assert fault in refused.value.detail
    assert len(refused.value.detail) < 300
    assert refused.value.detail.isprintable()


@pytest.mark.parametrize("which", ["graph", "head_graph", "layers_graph"])
def test_every_graph_of_a_stage_is_looked_at_before_it_is_opened(
    stages: TinyStages, spec: StageSpec, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one of all layers' outputs is opened where golden rows say that a layer is wrong."""
    assert spec.golden is not None
    model = onnx.load_model_from_string(spec.golden.layers_graph if which == "layers_graph" else spec.graph)
    model.graph.node.append(helper.make_node("Hardmax", [model.graph.node[0].output[0]], ["evil"]))
    hostile = model.SerializeToString()
    wrong = replace(spec.golden, layers_graph=hostile, hidden=np.linspace(-1, 1, len(spec.golden.hidden) // 2).astype(np.float16).tobytes())
    changed = {
        "graph": replace(spec, graph=hostile),
        "head_graph": replace(spec, head_graph=hostile),
        "layers_graph": replace(spec, golden=wrong),
    }[which]
    opened: list[bytes] = []
    real = session._open
    monkeypatch.setattr(session, "_open", lambda graph, options: opened.append(graph) or real(graph, options))
    with pytest.raises(InvalidInput, match="the operator 'Hardmax' is none of ours"):
        open_stage(changed, stages.blob_folder, 1, None)
    assert hostile not in opened


def test_random_damage_is_refused_or_harmless(stages: TinyStages, spec: StageSpec) -> None:
    """A bit flipped anywhere: either it is refused in one line, or what is accepted still has our operators and blobs only."""
    random = np.random.default_rng(14)
    sizes = {str(digest): (stages.blob_folder / digest).stat().st_size for digest in spec.blobs}
    refused = 0
    for _ in range(1000):
        damaged = bytearray(spec.graph)
        damaged[random.integers(len(damaged))] ^= 1 << int(random.integers(8))
        try:
            check_graph(bytes(damaged), sizes)
        except InvalidInput:
            refused += 1
            continue
        model = onnx.load_model_from_string(bytes(damaged))
        assert all(operator in ACCEPTED[domain] for domain, operator in operators(model.graph))
        locations = [entry.value for one in model.graph.initializer for entry in one.external_data if entry.key == "location"]
        assert set(locations) <= sizes.keys()
    assert refused > 300
