from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import onnx
import pytest

from protos.errors import InvalidInput
from protos.physics.costs import StageCost
from protos.v1 import device_pb2
from quantize.artifact.costs import stage_cost
from quantize.artifact.graph import build_stage_graph
from quantize.parts import stage_parts
from tests.quantize.conftest import Imported
from tests.support.checkpoints import TinyGlm

Get = Callable[..., Imported]

# hidden 64, 4 heads x 16, 2 KV heads, intermediate 96, vocabulary 272, blocks of 32: everything divides.
_MODEL = TinyGlm(hidden_size=64, intermediate_size=96, qkv_bias=False, tied_head=True)
_LAYER_MACS = 128 * 64 + 64 * 64 + 192 * 64 + 64 * 96
# int8 blocks and their scales, two norms, scales of the keys and values.
_LAYER_BYTES = _LAYER_MACS + _LAYER_MACS // 32 * 4 + 2 * 64 * 4 + 2 * 2 * 16 * 4
_HEAD_BYTES = 64 * 4 + 272 * 64 + 272 * 2 * 4


def test_a_stage_of_layers(imported: Get) -> None:
    manifest = imported(_MODEL).manifest
    positions_bytes, positions_row_bytes = 2 * 256 * 8 * 4, 2 * 8 * 4
    assert stage_cost(manifest, stage_parts(manifest, 1, 3)) == StageCost(
        weight_bytes=2 * _LAYER_BYTES + positions_bytes,
        read_bytes=2 * _LAYER_BYTES,
        macs_per_row=2 * _LAYER_MACS,
        kv_bytes_per_token=2 * (2 * 2 * 16 * 4),
        attention_macs_per_position=2 * 2 * 4 * 16,
        embedding_bytes_per_row=positions_row_bytes,
        # Norms 8 x 64; qkv 64 + 128, o 64 + 64, gate and up 64 + 192, down 96 + 64; attention 128 + 64; SwiGLU 9 x 96.
        activation_bytes_per_row=2 * 4 * (512 + 192 + 128 + 256 + 160 + 192 + 864),
        operators=2 * 10 + 3,
    )


def test_an_int8_cache_takes_a_quarter(imported: Get) -> None:
    manifest = imported(_MODEL).manifest
    parts = stage_parts(manifest, 1, 3)
    assert stage_cost(manifest, parts, "int8") == replace(stage_cost(manifest, parts), kv_bytes_per_token=2 * (2 * 2 * 16))


def test_the_head_is_counted_apart(imported: Get) -> None:
    manifest = imported(_MODEL).manifest
    assert stage_cost(manifest, ["embedding", "head"]) == StageCost(
        weight_bytes=272 * 64 + 272 * 2 * 4 + _HEAD_BYTES,
        head_read_bytes=_HEAD_BYTES,
        head_macs_per_row=272 * 64,
        embedding_bytes_per_row=64 + 2 * 4,
        activation_bytes_per_row=4 * 64,
        operators=1,
        head_activation_bytes_per_row=4 * (3 * 64 + 272),
        head_operators=2,
    )


def test_operators_are_the_graphs_nodes(imported: Get) -> None:
    """Identity, which ends a graph without layers, costs nothing."""
    manifest = imported(_MODEL).manifest
    for parts in (stage_parts(manifest, 1, 3), stage_parts(manifest, 0, 2, head=True)[:-1]):
        graph = onnx.load_model_from_string(build_stage_graph(manifest, parts)).graph
        assert stage_cost(manifest, parts).operators == len(graph.node)
    head = onnx.load_model_from_string(build_stage_graph(manifest, ["head"])).graph
    assert stage_cost(manifest, ["head"]).head_operators == len(head.node)


def test_stages_add_up_to_the_model(imported: Get) -> None:
    manifest = imported(_MODEL).manifest
    whole = stage_cost(manifest, [part.name for part in manifest.parts])
    first, second = (stage_cost(manifest, stage_parts(manifest, *cut)) for cut in ((0, 1), (1, 3)))
    assert first.macs_per_row + second.macs_per_row == whole.macs_per_row
    assert first.kv_bytes_per_token + second.kv_bytes_per_token == whole.kv_bytes_per_token


def test_the_fields_are_the_contracts() -> None:
    assert [field.name for field in fields(StageCost)] == [field.name for field in device_pb2.StageCost.DESCRIPTOR.fields]


def test_an_unknown_part(imported: Get) -> None:
    with pytest.raises(InvalidInput):
        stage_cost(imported(_MODEL).manifest, ["layers.9"])
