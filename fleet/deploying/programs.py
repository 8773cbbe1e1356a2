"""What a stage's device is sent besides, or in the place of, its graphs: times of programs, and programs."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.deploying.candidates import core_told, runs_programs
from protos.chip.core import Core
from protos.chip.weights import stored_weights
from protos.chip.wire import times_message
from protos.dtypes import KvDtype
from protos.errors import InvalidInput
from protos.manifest import Blob, Manifest
from protos.v1 import chip_pb2
from protos.v1 import device_pb2 as pb
from quantize.artifact.store import ArtifactStore
from quantize.compiler.stage_programs import stage_programs
from quantize.compiler.stage_times import ALL, SINGLE, CompiledPrograms, Model


@dataclass(frozen=True)
class ProgramFiles:
    """The programs of a stage as blobs of the store, and what a device is told of them."""

    blobs: tuple[Blob, ...]
    message: chip_pb2.StagePrograms


def stage_times(manifest: Manifest, request: pb.LoadStageRequest, description: pb.DeviceDescription) -> chip_pb2.StageTimes | None:
    """Of all runs that the stage may have; None for a device that is timed by its figures.

    Compiles: call it in an executor. Raises NoSpace, InvalidInput.
    """
    if not description.accelerator.timed_by_programs:
        return None
    shape, sizes = request.shape, SINGLE if runs_programs(description) else ALL
    programs = CompiledPrograms(Model.of(manifest), tuple(request.parts), _core(description), shape.kv_dtype, sizes)
    return times_message(programs.listed(shape.context, shape.slots_per_group, shape.prefill_chunk))


def program_files(
    manifest: Manifest, parts: tuple[str, ...], kv_dtype: KvDtype, context: int, description: pb.DeviceDescription, store: ArtifactStore
) -> ProgramFiles | None:
    """None for a device that runs graphs. Compiles and verifies, and writes: call it in an executor. Raises NoSpace, InvalidInput."""
    if not runs_programs(description):
        return None
    made = stage_programs(Model.of(manifest), parts, _core(description), kv_dtype, context)
    layers = [store.put(program.to_bytes()) for program in made.layers]
    head = store.put(made.head.to_bytes()) if made.head else None
    weights = {region.name: (blob, tensor) for program in made.all for region, blob, tensor in stored_weights(program, manifest)}
    message = chip_pb2.StagePrograms(
        layers=[blob.digest for blob in layers],
        head=head.digest if head else "",
        weights=[
            chip_pb2.StoredTensor(region=name, blob=blob.digest, offset=tensor.offset, size_bytes=tensor.size_bytes)
            for name, (blob, tensor) in sorted(weights.items())
        ],
    )
    return ProgramFiles((*layers, *((head,) if head else ())), message)


def _core(description: pb.DeviceDescription) -> Core:
    core = core_told(description)
    if core is None:
        raise InvalidInput(f"{description.name} tells of no core that programs could be compiled for")
    return core
