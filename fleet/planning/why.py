"""The words of a plan: why these devices, why these cuts, what it will cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import assert_never

from fleet.planning.costs import REFERENCE_POSITIONS, PlannerDevice, layer_share, part_share, run_ns, shape_for, stage_need
from fleet.planning.plan import Plan, PlanRequest
from protos.manifest import Manifest
from protos.sizes import bytes_text
from quantize.parts import stage_parts


def with_lines(plan: Plan, lines: tuple[str, ...]) -> Plan:
    return replace(plan, why=lines)


def lines(
    manifest: Manifest, plan: Plan, devices: Sequence[PlannerDevice], request: PlanRequest, *, fewest: int, fewest_ns: int
) -> tuple[str, ...]:
    """One line each. `fewest` is how many devices would do, `fewest_ns` what a token would take on them."""
    return (
        _count(manifest, plan, devices, request, fewest, fewest_ns),
        *_cuts(manifest, plan, devices),
        *_memory(manifest, plan),
        *_prediction(plan, devices),
    )


def with_relayed(plan: Plan, relayed: Collection[str]) -> Plan:
    """The plan, with a line that names the devices of `relayed` (ids) that it uses, since nobody can dial them."""
    used = [stage.device_name for stage in plan.stages if stage.device_id in relayed]
    if not used:
        return plan
    told = f"relayed: what is sent to {', '.join(used)} passes through the coordinator, which takes longer than is predicted"
    return replace(plan, why=(*plan.why, told))


def hollow_lines(plan: Plan, hollow: int) -> tuple[str, ...]:
    """`hollow`: devices of the fleet that compute nothing."""
    used = [stage.device_name for stage in plan.stages if stage.hollow]
    if used:
        return (f"hollow: {', '.join(used)} compute nothing; this can be deployed, but will answer no prompt",)
    return (f"{hollow:,} hollow devices are left out: they compute nothing",) if hollow else ()


def sending_line(plan: Plan) -> str:
    """What has to be pushed."""
    lacking = [f"{bytes_text(stage.push_bytes)} to {stage.device_name}" for stage in plan.stages if stage.push_bytes]
    return f"to send: {', '.join(lacking)}" if lacking else "nothing has to be sent: the devices have all of it"


def _count(manifest: Manifest, plan: Plan, devices: Sequence[PlannerDevice], request: PlanRequest, fewest: int, fewest_ns: int) -> str:
    stages = len(plan.stages)
    spare = len(devices) - stages
    left = f"; {spare} more {'is' if spare == 1 else 'are'} left free" if spare else ""
    if request.stages:
        token_ns = 1e9 / plan.decode_tokens_per_second
        if fewest >= stages:
            compared = "no fewer would do" if stages > 1 else "one device holds it all"
        else:
            who = "one device" if fewest == 1 else f"{fewest} devices"
            percent = 100 * (token_ns / fewest_ns - 1)
            compared = f"{who} would be faster by {percent:.0f} %" if percent >= 0.5 else f"{who} would do, but not be faster"
        return f"--stages {request.stages} was asked for: {compared}{left}"
    if stages == 1:
        return f"fits on one device{left}"
    shape = shape_for(manifest, stages=1, context=plan.context, slots=request.slots, kv_dtype=plan.kv_dtype)
    whole = stage_need(manifest, stage_parts(manifest, 0, manifest.config.layers, head=True), shape).total_bytes
    largest = max(device.memory_bytes for device in devices)
    needed, free = bytes_text(whole), bytes_text(largest)
    if whole <= largest and any(device.storage for device in devices):
        return f"fewer than {stages} devices do not hold it, for room on their disks{left}"
    if stages == 2 and whole > largest:
        return f"one device is too small: the model needs {needed}, the largest has {free} free; two hold it{left}"
    return f"fewer than {stages} devices do not hold it: the model needs {needed}, the largest device has {free} free{left}"


def _cuts(manifest: Manifest, plan: Plan, devices: Sequence[PlannerDevice]) -> list[str]:
    if len(plan.stages) == 1:
        return []
    by_id = {device.device_id: device for device in devices}
    head = by_id[plan.stages[0].device_id]
    layer_ns = run_ns(head, layer_share(manifest, 0, min(plan.context, REFERENCE_POSITIONS), plan.kv_dtype))
    head_ns = run_ns(head, part_share(manifest, "head", 0))
    found = []
    for place, stage in enumerate(plan.stages):
        count = stage.stop_layer - stage.first_layer
        which = f"{stage.device_name}: {count} layer{'' if count == 1 else 's'} [{stage.first_layer}, {stage.stop_layer})"
        if place == 0:
            found.append(f"{which} with the embedding and the output head, which takes as long as {head_ns / max(layer_ns, 1):.1f} layers")
        elif count == 1 or stage.memory_bytes >= _grown(manifest, plan, place):
            found.append(f"{which}: {_aim(plan)}")
        else:
            found.append(f"{which}: no more fit in its memory")
    return found


def _aim(plan: Plan) -> str:
    match plan.objective:
        case "latency":
            return "the fastest way through for one stream, then even stages"
        case "throughput":
            return "so that the slowest stage is as fast as can be"
        case "energy":
            return "the fewest joules per token"
        case never:
            assert_never(never)


def _grown(manifest: Manifest, plan: Plan, place: int) -> int:
    """Memory of a stage if it had one layer more (a layer it has, counted twice)."""
    stage = plan.stages[place]
    count = stage.stop_layer - stage.first_layer
    return stage.weight_bytes + stage.kv_bytes + (stage.weight_bytes + stage.kv_bytes) // count


def _memory(manifest: Manifest, plan: Plan) -> list[str]:
    sequences = plan.groups * plan.slots_per_group
    groups = f", in {plan.groups} groups of {plan.slots_per_group}" if plan.groups > 1 else ""
    as_int8 = " as int8" if plan.kv_dtype == "int8" else ""
    found = [f"KV cache for {sequences} sequences of {plan.context} tokens is reserved{as_int8}{groups}"]
    one = shape_for(manifest, stages=plan.groups, context=plan.context, slots=1, kv_dtype=plan.kv_dtype)
    shape = replace(one, slots_per_group=plan.slots_per_group)
    for stage in plan.stages:
        need = stage_need(manifest, stage.parts, shape)
        found.append(
            f"{stage.device_name}: {bytes_text(need.total_bytes)} of {bytes_text(stage.memory_bytes)}: "
            f"weights {bytes_text(need.weight_bytes)}, KV {bytes_text(need.kv_bytes)}, buffers {bytes_text(need.activation_bytes)}"
        )
    return found


def _prediction(plan: Plan, devices: Sequence[PlannerDevice]) -> list[str]:
    slowest = max(plan.stages, key=lambda stage: stage.decode_seconds)
    found = [f"predicted: {plan.decode_tokens_per_second:.1f} tokens/s for one stream"]
    if len(plan.stages) > 1:
        found[0] += f"; the slowest stage, {slowest.device_name}, takes {slowest.decode_seconds * 1e3:.2f} ms a token"
        found.append(f"each token crosses {len(plan.stages)} links with {bytes_text(plan.hop_bytes)}")
        if plan.wire_dtype != "float32":
            found.append(f"rows travel as {plan.wire_dtype}: the text may depend on where the model is cut")
    if plan.joules_per_token is not None:
        found.append(f"predicted: {plan.joules_per_token:.3g} J per token, idle power of the devices in use included")
    else:
        silent = [stage.device_name for stage in plan.stages if stage.decode_joules is None]
        found.append(f"no prediction of energy: {', '.join(silent)} {'states' if len(silent) == 1 else 'state'} no power figures")
    if plan.decode == "pairs":
        found.append(
            "decoded by runs of two rows and more: drafts that hold make it faster than predicted, and a prefill gives the same text"
        )
    if any(stage.simulated for stage in plan.stages):
        found.append("predictions for simulated devices are of their modelled time and power")
    unknown = {device.device_id for device in devices if not device.figures.linear_bytes_per_second}
    guessed = [stage.device_name for stage in plan.stages if stage.device_id in unknown]
    if guessed:
        found.append(f"{', '.join(guessed)}: speed unknown, taken for that of a small ARM board")
    return found
