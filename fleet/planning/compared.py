"""Times of programs beside the roofline of the same device's figures: how much they differ, and why."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.planning.costs import REFERENCE_POSITIONS, PlannerDevice, stage_run
from fleet.planning.plan import Plan
from fleet.planning.programs import CompiledTiming
from protos.manifest import Manifest
from protos.physics.roofline import Roofline
from protos.physics.timing import Decode, Estimate, StageRun
from quantize.compiler.causes import cause_of
from quantize.compiler.ir import Shape
from quantize.parts import HEAD, layer_number

# Two models of one device agree within this.
WITHIN = 0.15


def compared_lines(manifest: Manifest, plans: Sequence[Plan], devices: Sequence[PlannerDevice]) -> list[list[str]]:
    """For each plan one line for each of its stages whose device is timed by programs: a token of one stream."""
    by_id = {device.device_id: device for device in devices}

    def line(plan: Plan, place: int) -> str | None:
        stage = plan.stages[place]
        body = Decode((min(plan.context, REFERENCE_POSITIONS) - 1,))
        run = stage_run(manifest, stage.parts, plan.kv_dtype, body, head_rows=int(HEAD in stage.parts))
        return compared(by_id[stage.device_id], run)

    return [[found for place in range(len(plan.stages)) if (found := line(plan, place))] for plan in plans]


def compared(device: PlannerDevice, run: StageRun) -> str | None:
    """One line; None of a device that is timed by its figures. A difference of more than 15 % is named with what most of it is."""
    timing = device.timing_model
    if not isinstance(timing, CompiledTiming):
        return None
    programs, roofline = timing.estimate(run), Roofline(device.known).estimate(run)
    difference = programs.seconds / roofline.seconds - 1
    found = f"{device.name}: {_ms(programs.seconds)} ms by its programs, {_ms(roofline.seconds)} by the roofline of its figures"
    if abs(difference) <= WITHIN:
        return found
    return f"{found} ({100 * difference:+.0f} %): {_why(timing, run, programs, roofline)}"


def _why(timing: CompiledTiming, run: StageRun, programs: Estimate, roofline: Estimate) -> str:
    words = sorted({*programs.breakdown, *roofline.breakdown})
    slower = programs.seconds > roofline.seconds

    def grown(word: str) -> float:
        return programs.breakdown.get(word, 0.0) - roofline.breakdown.get(word, 0.0)

    word = (max if slower else min)(words, key=grown)
    most = f"most of it is {word}, {_ms(programs.breakdown.get(word, 0.0))} ms in place of {_ms(roofline.breakdown.get(word, 0.0))}"
    layers = [number for part in (run.stage.parts if run.stage else ()) if (number := layer_number(part)) is not None]
    if not slower or not layers or run.stage is None:
        return f"{most}: the figures are fitted to what other software reached there"
    context = timing.model.manifest.config.max_positions
    shape = Shape(1, 1, min(REFERENCE_POSITIONS, context), run.stage.kv_dtype)
    return f"{most}: {cause_of(timing.model, timing.core, layers[0], shape)}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"
