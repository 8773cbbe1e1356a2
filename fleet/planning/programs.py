"""Devices that are timed by compiled programs, or execute them: what the planner asks of them for one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleet.planning.costs import PlannerDevice
from protos.chip.core import Core
from protos.dtypes import KvDtype
from protos.errors import FleetError, InvalidInput, NoSpace
from protos.manifest import Manifest
from protos.physics.by_programs import estimate
from protos.physics.programs import Room
from protos.physics.timing import Estimate, StageRun
from quantize.compiler.stage_programs import check_rows
from quantize.compiler.stage_times import ALL, SINGLE, CompiledPrograms, Model, Sizes
from quantize.parts import stage_parts


@dataclass(frozen=True)
class CompiledTiming:
    """Implements TimingModel for one model on one core, by programs that are compiled when they are asked for.

    The device itself counts by the same programs, of which it is told with its stage.
    """

    model: Model
    core: Core
    idle_watts: float
    joules_per_link_byte: float
    sizes: Sizes = ALL

    def estimate(self, run: StageRun) -> Estimate:
        """Raises InvalidInput for an operator without a lowering, NoSpace where not even one row fits."""
        programs = None
        if run.stage is not None:
            if run.stage.manifest_digest != self.model.digest:
                raise InvalidInput(f"a timing of {self.model.digest[:12]} was asked for {run.stage.manifest_digest[:12]}")
            programs = self.programs(run.stage.parts, run.stage.kv_dtype)
        return estimate(run, programs, self.core.launch_seconds, self.joules_per_link_byte)

    def programs(self, parts: tuple[str, ...], kv_dtype: str) -> CompiledPrograms:
        return CompiledPrograms(self.model, parts, self.core, kv_dtype, self.sizes)


def with_programs(
    devices: Sequence[PlannerDevice], manifest: Manifest, kv_dtype: KvDtype = "float32"
) -> tuple[list[PlannerDevice], list[str]]:
    """The devices with the timing that this model has on their cores; without those whose cores cannot run it, one line for each of which
    says why. Compiles a layer for each kind of core. Raises what is wrong where none is left.
    """
    model, able, told = Model.of(manifest), list[PlannerDevice](), list[str]()
    error: FleetError | None = None
    for device in devices:
        try:
            able.append(_with_timing(device, model, kv_dtype))
        except (InvalidInput, NoSpace) as refused:
            error = refused.at(device.name)
            told.append(f"left out: {error.detail}")
    if error and not able:
        raise error
    return able, told


def _with_timing(device: PlannerDevice, model: Model, kv_dtype: KvDtype) -> PlannerDevice:
    if device.core is None:
        return device
    if device.runs_programs:
        check_rows(model.manifest)
    sizes = SINGLE if device.runs_programs else ALL
    timing = CompiledTiming(model, device.core, device.figures.idle_watts, device.figures.joules_per_link_byte, sizes)
    programs = timing.programs(stage_parts(model.manifest, 0, 1, head=True), kv_dtype)
    programs.layers(Room(1, 1, 1))
    programs.head(1)
    return replace(device, timing_model=timing) if device.timed_by_programs else device
