"""What a device is told of its stage fits a message, and is the same however it is sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from device.stage_spec import parse_spec
from fleet.deploying import load_order
from fleet.deploying.desired import new_desired
from fleet.planning.plan import PlanRequest
from fleet.planning.planner import PlannerDevice, plan
from protos import packing
from protos.errors import InvalidInput
from protos.ids import digest_of
from protos.manifest import Blob, Manifest, Part, Provenance, Quantization, Tensor, Variant
from protos.net.transport import MESSAGE_BYTES
from protos.v1 import device_pb2 as pb
from quantize.artifact.part_specs import part_specs
from quantize.checkpoints.huggingface_config import parse_config
from tests.quantize.architectures.test_glm4_moe_lite import FLASH
from tests.support.checkpoints import TinyGlm
from tests.support.ring import tiny_model


def unwritten(layers: int) -> Manifest:
    """Of GLM-4.7-Flash with so many layers: its blobs' names are made up."""
    config, quantization = (
        replace(parse_config({**FLASH, "num_hidden_layers": layers}), max_positions=1024),
        Quantization(8, 64, True, True),
    )
    parts = []
    for spec in part_specs(config, quantization):
        blob = Blob(digest_of(spec.name.encode()), spec.size_bytes)
        tensors = tuple(Tensor(tensor.name, tensor.dtype, tensor.shape, 0, tensor.offset) for tensor in spec.tensors)
        parts.append(Part(spec.name, spec.cost, (Variant("matmulnbits.8.64", (blob,), tensors),)))
    return Manifest(config, quantization, Provenance("", "", ""), tuple(parts))


def ordered(manifest: Manifest, blob_folder: Path | None = None) -> pb.LoadStageRequest:
    board = PlannerDevice("one", "one", "cpu", False, 1 << 40)
    desired = new_desired("model", 1, (plan(manifest, [board], PlanRequest("model", stages=1, context=128, slots=1)),), None)
    return load_order.load_request(manifest, desired, desired.pipelines[0], 0, None, blob_folder)


def test_many_layers_of_many_experts_fit_a_message() -> None:
    request = ordered(unwritten(18))
    assert request.ByteSize() < MESSAGE_BYTES / 2
    assert not request.graph
    assert len(parse_spec(request).graph) > MESSAGE_BYTES


def test_a_device_reads_the_same_of_either_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, store = tiny_model(tmp_path, TinyGlm())
    plain = ordered(manifest, store.blob_folder)
    assert plain.graph
    assert plain.golden.layers_graph
    assert not plain.graph_zlib + plain.golden.layers_graph_zlib
    monkeypatch.setattr(packing, "_PLAIN_BYTES", 100)
    small = ordered(manifest, store.blob_folder)
    assert not small.graph + small.golden.layers_graph
    assert small.ByteSize() < plain.ByteSize() - len(plain.graph)
    assert parse_spec(small) == parse_spec(plain)


def test_what_fits_no_message_is_said_before_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, _ = tiny_model(tmp_path, TinyGlm())
    monkeypatch.setattr(load_order, "MESSAGE_BYTES", 1000)
    with pytest.raises(InvalidInput, match=r"told of 3 layers takes .* a message 1000 B") as caught:
        ordered(manifest)
    assert caught.value.advice == "deploy the model in more stages: --stages 2"
