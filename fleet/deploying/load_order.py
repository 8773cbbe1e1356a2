"""The order to load one stage, made from a deployment's plan and the model's manifest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fleet.deploying.desired import Desired, PipelineSpec
from fleet.deploying.programs import ProgramFiles
from fleet.planning.plan import Objective
from protos.decoding import DecodeMode
from protos.dtypes import KvDtype
from protos.errors import InvalidInput
from protos.manifest import Blob, Manifest
from protos.net.transport import MESSAGE_BYTES
from protos.packing import packed
from protos.sizes import bytes_text
from protos.v1 import device_pb2 as pb
from quantize import parts
from quantize.artifact.costs import stage_cost
from quantize.artifact.golden import StageGolden, stage_golden
from quantize.artifact.graph import build_norm_graph, build_stage_graph
from quantize.layers.onnx_attention import has_slots

HEAD = "head"
ATTENTION_SLOTS = 4


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Of a stage, round the ring: whom it takes rows from, and whom it sends them to."""

    before: pb.Hop
    after: pb.Hop


def stage_blobs(manifest: Manifest, spec: PipelineSpec, stage: int) -> tuple[Blob, ...]:
    """The blobs that the stage's graphs point at, each once."""
    return parts.stage_blobs(manifest, spec.plan.stages[stage].parts)


def load_request(
    manifest: Manifest,
    desired: Desired,
    spec: PipelineSpec,
    stage: int,
    ring: Neighbours | None,
    blob_folder: Path | None = None,
    programs: ProgramFiles | None = None,
) -> pb.LoadStageRequest:
    """For a stage of one of the pipelines of `desired`, with its neighbours where it is not the only one, and with `programs` in the place
    of graphs. Builds the graphs, which takes some milliseconds: call it in an executor.

    With the artifact's `blob_folder` the device is told to check itself. Raises Corrupt when what it would check by is damaged,
    InvalidInput for a stage that no message could tell of.
    """
    plan, planned, config = spec.plan, spec.plan.stages[stage], manifest.config
    body = [part for part in planned.parts if part != HEAD]
    first, stop = planned.first_layer, planned.stop_layer
    slots = 0 if programs else attention_slots(manifest, plan.decode, plan.kv_dtype, plan.slots_per_group, plan.objective)
    graph, graph_zlib = (b"", b"") if programs else packed(build_stage_graph(manifest, body, kv_dtype=plan.kv_dtype, slots=slots))
    golden = stage_golden(manifest, planned.parts, first, stop, plan.context, plan.kv_dtype, blob_folder) if blob_folder else None
    request = pb.LoadStageRequest(
        generation=pb.Generation(deployment=desired.name, number=desired.generation),
        pipeline_id=spec.pipeline_id,
        manifest_digest=plan.manifest_digest,
        epoch=spec.epoch,
        stage=stage,
        stages=len(plan.stages),
        parts=planned.parts,
        blobs=[blob.digest for blob in (*stage_blobs(manifest, spec, stage), *(programs.blobs if programs else ()))],
        shape=pb.StageShape(
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            first_layer=planned.first_layer,
            stop_layer=planned.stop_layer,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            context=plan.context,
            groups=plan.groups,
            slots_per_group=plan.slots_per_group,
            prefill_chunk=plan.prefill_chunk,
            row_multiple=row_multiple(manifest),
            kv_dtype=plan.kv_dtype,
            wire_dtype=plan.wire_dtype,
            prefix_whole=config.prefix_whole,
            learned_positions=config.learned_positions,
            values_are_keys=config.latent is not None,
            decode=plan.decode,
            attention_slots=slots,
        ),
        graph=graph,
        graph_zlib=graph_zlib,
        head_graph=build_stage_graph(manifest, [HEAD]) if HEAD in planned.parts and not programs else b"",
        norm_graph=build_norm_graph(manifest) if HEAD in planned.parts and not programs else b"",
        next=ring.after if ring else None,
        previous=ring.before if ring else None,
        cost=pb.StageCost(**dataclasses.asdict(stage_cost(manifest, planned.parts, plan.kv_dtype))),
        golden=_golden(golden, with_graph=not programs) if golden else None,
        programs=programs.message if programs else None,
    )
    if (size := request.ByteSize()) > MESSAGE_BYTES:
        raise InvalidInput(
            f"what a device must be told of {stop - first} layers takes {bytes_text(size)}, a message {bytes_text(MESSAGE_BYTES)}",
            advice=f"deploy the model in more stages: --stages {len(plan.stages) + 1}",
        )
    return request


def attention_slots(manifest: Manifest, decode: DecodeMode, kv_dtype: KvDtype, slots: int, objective: Objective = "latency") -> int:
    """Of a stage's graph (device.proto): how many sequences that are decoded by runs share a run, where the model allows it.

    Each attention without a sequence takes 17 µs of every layer, so all slots have one only where nothing but throughput counts
    (benchmarks/README.md, "Speculation").
    """
    if decode != "pairs" or not has_slots(manifest.config, kv_dtype):
        return 0
    return slots if objective == "throughput" else min(slots, ATTENTION_SLOTS)


def _golden(golden: StageGolden, *, with_graph: bool) -> pb.Golden:
    layers_graph, layers_graph_zlib = packed(golden.layers_graph if with_graph else b"")
    return pb.Golden(**{**dataclasses.asdict(golden), "layers_graph": layers_graph, "layers_graph_zlib": layers_graph_zlib})


def row_multiple(manifest: Manifest) -> int:
    """Some products compute a lone row, or the last of an odd number, differently: MatMulNBits at 4 bits, with blocks of 128 and more (on
    onnxruntime 1.31, not on 1.32), and those in float32, as a router of experts is."""
    quantization = manifest.quantization
    return 2 if quantization.block_size not in (32, 64) or quantization.bits == 4 or manifest.config.experts else 1
