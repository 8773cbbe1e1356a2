"""What operators cost, against what the artifact stores, what its graphs multiply and what a stage is said to cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import pytest

from protos.manifest import Manifest
from quantize.architectures.registry import architecture_of
from quantize.artifact.costs import stage_cost
from quantize.artifact.graph import build_stage_graph
from quantize.artifact.operator_costs import OperatorCost, operator_costs
from quantize.artifact.schemes import scheme_of
from quantize.layers.operators import Attention, Block, Linear, Mixture, Norm
from quantize.parts import EMBEDDING, HEAD, layer_part, layer_parts, stage_parts
from tests.support.blanks import blank_model
from tests.support.goldens import NAMES, import_golden

MODELS = [*NAMES, "glm2b-tiny"]


@dataclass(frozen=True)
class Sums:
    """Of whatever one part of the model holds and multiplies with when every row meets every expert."""

    weight_bytes: int
    macs: int
    float32_macs: int
    macs_per_position: int
    kv_bytes_per_token: int


@pytest.fixture(scope="module", params=MODELS)
def manifest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("model")
    return blank_model(folder)[0] if request.param == "glm2b-tiny" else import_golden(request.param, folder)[0]


def described(block: Block, manifest: Manifest, place: str) -> Sums:
    costs = list(operator_costs(block, scheme_of(manifest.quantization, place)))
    return Sums(
        weight_bytes=sum(cost.weight_bytes for cost in costs),
        macs=sum(cost.macs for cost in costs),
        float32_macs=sum(cost.float32_macs for cost in costs),
        macs_per_position=sum(cost.macs_per_position for cost in costs),
        kv_bytes_per_token=sum(cost.kv_bytes_per_token for cost in costs),
    )


def stored(manifest: Manifest, layer: int) -> Sums:
    """By the manifest's tensors, the nodes and the caches of the layer's graph, and the law of costs.py."""
    parts = layer_parts(manifest, layer)
    graph = build_stage_graph(manifest, stage_parts(manifest, layer, layer + 1))
    macs, float32_macs = graph_macs(graph)
    weight_bytes = sum(tensor.size_bytes for part in parts for tensor in manifest.part(part).variants[0].tensors)
    cached = cache_bytes(graph) // (1 if manifest.config.latent is None else 2)  # one array, bound twice
    return Sums(weight_bytes, macs, float32_macs, stage_cost(manifest, parts).attention_macs_per_position, cached)


def graph_macs(graph: bytes) -> tuple[int, int]:
    """(with matrices by blocks, with float32 ones) of a row that all nodes compute with, those of both branches of an If included."""
    model = onnx.load_model_from_string(graph).graph
    shapes = {tensor.name: tensor.dims for tensor in model.initializer}
    by_blocks = float32 = 0
    for node in nodes(model):
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "MatMulNBits":
            by_blocks += attributes["K"] * attributes["N"]
        elif node.op_type == "FusedMatMul":
            float32 += math.prod(shapes[node.input[1]])
    return by_blocks, float32


def cache_bytes(graph: bytes) -> int:
    """Of a token, in the graph's float32 caches [batch, kv_heads, capacity, head_dim]."""
    inputs = onnx.load_model_from_string(graph).graph.input
    shapes = [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in inputs if value.name.startswith("past_")]
    return sum(4 * shape[1] * shape[3] for shape in shapes)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes(attribute.g)


def test_a_layers_operators_add_up_to_what_is_stored_and_multiplied(manifest: Manifest) -> None:
    for layer in range(manifest.config.layers):
        block = architecture_of(manifest.config).layer(manifest.config, layer)
        found, cost = described(block, manifest, layer_part(layer)), stage_cost(manifest, layer_parts(manifest, layer))
        assert found == stored(manifest, layer)
        assert (found.weight_bytes, found.kv_bytes_per_token) == (cost.weight_bytes, cost.kv_bytes_per_token)


def without_one(block: Block) -> Iterator[tuple[object, Block]]:
    """(what was left out, the rest), an expert at a time too."""
    for place, operator in enumerate(block.operators):
        before, after = block.operators[:place], block.operators[place + 1 :]
        yield operator, replace(block, operators=(*before, *after))
        if isinstance(operator, Mixture):
            for inner, shared in without_one(operator.shared):
                yield inner, replace(block, operators=(*before, replace(operator, shared=shared), *after))
            for last, rest in without_one(operator.experts[-1].block):
                experts = (*operator.experts[:-1], replace(operator.experts[-1], block=rest))
                yield last, replace(block, operators=(*before, replace(operator, experts=experts), *after))


def test_an_operator_that_is_left_out_is_missed(manifest: Manifest) -> None:
    layer = manifest.config.layers - 1
    block, truth = architecture_of(manifest.config).layer(manifest.config, layer), stored(manifest, layer)
    missed = [operator for operator, rest in without_one(block) if described(rest, manifest, layer_part(layer)) != truth]
    assert {Norm, Linear, Attention} <= {type(operator) for operator in missed}
    with_parameters = [operator for operator, _ in without_one(block) if isinstance(operator, Norm | Linear | Attention | Mixture)]
    assert missed == with_parameters


def test_the_ends_add_up_too(manifest: Manifest) -> None:
    architecture, config = architecture_of(manifest.config), manifest.config
    for place, block in ((EMBEDDING, architecture.embedding(config)), (HEAD, architecture.head(config))):
        found, part = described(block, manifest, place), manifest.part(place)
        assert found.weight_bytes == sum(tensor.size_bytes for tensor in part.variants[0].tensors)
        assert (found.macs, found.float32_macs) == (graph_macs(build_stage_graph(manifest, [HEAD])) if place == HEAD else (0, 0))
        assert found.weight_bytes == part.cost.weight_bytes
        assert found.macs == part.cost.macs == (config.vocab_size * config.hidden_size if place == HEAD else 0)


def test_a_row_reads_a_row_of_each_table(manifest: Manifest) -> None:
    embedding = architecture_of(manifest.config).embedding(manifest.config)
    costs: list[OperatorCost] = list(operator_costs(embedding, scheme_of(manifest.quantization, EMBEDDING)))
    hidden, block = manifest.config.hidden_size, manifest.quantization.block_size
    row = -(-hidden // block) * (block + 4)  # levels of a byte, and a scale for each block
    assert [cost.read_bytes for cost in costs] == ([row, 2 * 4 * hidden] if manifest.config.learned_positions else [row])


def test_an_expert_sees_its_share_of_the_rows(tmp_path: Path) -> None:
    manifest, _ = import_golden("glm-4.5", tmp_path)
    block = architecture_of(manifest.config).layer(manifest.config, 1)
    costs = list(operator_costs(block, scheme_of(manifest.quantization, layer_part(1))))
    experts = [cost for cost in costs if cost.part.startswith("experts.")]
    assert len(experts) == 8 * 3 - 8  # SwiGLU has no part of its own
    assert {cost.share for cost in experts} == {2 / 8}
    assert {cost.share for cost in costs if cost.part == "attention"} == {1.0}
    assert sum(cost.macs * cost.share for cost in experts) == 2 * 3 * 40 * 72 == manifest.part("layers.1.experts.0-7").cost.macs
