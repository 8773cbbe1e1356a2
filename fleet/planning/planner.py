"""Which device holds which layers: the smallest group of devices that fits a model, cut where it runs best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fleet.planning import why
from fleet.planning.costs import (
    PipelineShape,
    PlannerDevice,
    decode_cost,
    hop_bytes,
    hops_ns,
    idle_watts,
    kv_tokens,
    stage_need,
    weights,
)
from fleet.planning.plan import Plan, PlanRequest, StagePlan
from fleet.planning.search import Layout, Search
from fleet.planning.storage import Storage, words_of
from protos.errors import InvalidInput, NoSpace, NotFound
from protos.manifest import Manifest
from protos.sizes import bytes_text
from quantize.artifact.graph import check_kv_dtype
from quantize.parts import POSITIONS, stage_parts

__all__ = ["DEFAULT_CONTEXT", "PlannerDevice", "plan"]

DEFAULT_CONTEXT = 4096


def plan(manifest: Manifest, devices: Sequence[PlannerDevice], request: PlanRequest) -> Plan:
    """The plan for `request` on `devices`, whatever their order, as if none of them had any of the model yet (see `presence.with_present`)
    but where a disk is short of room (`storage.Storage`).

    Hollow devices are used only where there are no others, or by name.
    As few devices as fit, or `request.stages`; among those the objective decides: the lowest time per token of one stream (latency), the
    fastest slowest stage (throughput), the fewest joules per token (energy). Ties go to the fastest slowest stage, then to the lowest ids.
    Raises NotFound (no such device, or none), InvalidInput (figures out of range), NoSpace (it fits nowhere; says what is missing).

    >>> boards = [PlannerDevice(device_id=name, name=name, profile="", simulated=False, memory_bytes=10**9) for name in "ab"]
    >>> [(stage.device_name, stage.first_layer, stage.stop_layer) for stage in plan(manifest, boards, PlanRequest("tiny")).stages]
    [('a', 0, 3)]
    """
    usable = _able(_chosen(sorted(devices, key=lambda device: device.device_id), request.devices), manifest, request)
    context = _context(manifest, request)
    check_kv_dtype(manifest, request.kv_dtype)
    _check_stages(manifest, request, len(usable))
    search = Search(manifest, usable, request, context)
    counts = [request.stages] if request.stages else range(1, min(manifest.config.layers, len(usable)) + 1)
    layout = next(filter(None, map(search.layout, counts)), None)
    if layout is None:
        _check_disks(manifest, usable, request, context, counts)
        # Of all that was tried, what asks for the least: with many stages, two slots in each group are more than were wanted.
        raise _no_space(manifest, usable, request, min(map(search.shape, reversed(counts)), key=kv_tokens))
    fewest = layout
    if request.stages:
        fewest = next(filter(None, map(search.layout, range(1, request.stages))), layout)
    costs = _Costs.of(manifest, layout, request)
    stages = tuple(_stage(manifest, layout, costs, place) for place in range(len(layout.stages)))
    joules = [stage.decode_joules for stage in stages]
    result = Plan(
        model=request.model,
        manifest_digest=manifest.digest,
        objective=request.objective,
        context=context,
        groups=layout.shape.groups,
        slots_per_group=layout.shape.slots_per_group,
        prefill_chunk=layout.shape.prefill_chunk,
        stages=stages,
        decode_tokens_per_second=1e9 / costs.token_ns,
        joules_per_token=None if None in joules else sum(joule for joule in joules if joule is not None),
        hop_bytes=hop_bytes(manifest, request.wire_dtype),
        why=(),
        kv_dtype=request.kv_dtype,
        wire_dtype=request.wire_dtype,
        decode=request.decode,
    )
    fewest_ns = _Costs.of(manifest, fewest, request).token_ns
    lines = why.lines(manifest, result, usable, request, fewest_ns=fewest_ns, fewest=len(fewest.stages))
    lines += tuple(words_of(_tight(usable)))
    lines += why.hollow_lines(result, sum(device.hollow for device in devices))
    return why.with_lines(result, lines)


@dataclass(frozen=True)
class _Costs:
    """Predictions of a layout, for one token of one stream."""

    stage_ns: tuple[int, ...]
    stage_nj: tuple[int, ...]  # dynamic
    token_ns: int

    @staticmethod
    def of(manifest: Manifest, layout: Layout, request: PlanRequest) -> _Costs:
        ns, nj, wire_dtype = [], [], request.wire_dtype
        for place, (device, first, stop) in enumerate(layout.stages):
            parts = stage_parts(manifest, first, stop, head=place == 0)
            cost = decode_cost(
                manifest, device, parts, place, len(layout.stages), layout.positions, layout.shape.kv_dtype, wire_dtype, request.decode
            )
            ns.append(cost[0])
            nj.append(cost[1])
        return _Costs(tuple(ns), tuple(nj), sum(ns) + hops_ns(manifest, len(ns), wire_dtype))


def _stage(manifest: Manifest, layout: Layout, costs: _Costs, place: int) -> StagePlan:
    device, first, stop = layout.stages[place]
    parts = stage_parts(manifest, first, stop, head=place == 0)
    need = stage_need(manifest, parts, layout.shape)
    # It idles while the others work, so its idle power counts for the whole token.
    joules = costs.stage_nj[place] / 1e9 + idle_watts(device) * costs.token_ns / 1e9
    return StagePlan(
        device_id=device.device_id,
        device_name=device.name,
        profile=device.profile,
        simulated=device.simulated,
        first_layer=first,
        stop_layer=stop,
        parts=parts,
        weight_bytes=need.weight_bytes,
        kv_bytes=need.kv_bytes,
        memory_bytes=device.memory_bytes,
        push_bytes=sum(weights(manifest, parts).values()),
        decode_seconds=costs.stage_ns[place] / 1e9,
        decode_joules=joules if device.figures.has_energy else None,
        hollow=device.hollow,
    )


def _chosen(devices: Sequence[PlannerDevice], wanted: Sequence[str]) -> list[PlannerDevice]:
    if not devices:
        raise NotFound("there is no device to plan for", advice="start some with `glmfleet sim up`, or see `glmfleet doctor`")
    known = {device.device_id for device in devices} | {device.name for device in devices}
    for key in wanted:
        if key not in known:
            raise NotFound(f"no device {key!r} is online", advice="see `glmfleet devices`")
    if wanted:
        return [device for device in devices if device.device_id in wanted or device.name in wanted]
    # Beside devices that compute, those that do not are taken only by name.
    return [device for device in devices if not device.hollow] or list(devices)


def _able(devices: list[PlannerDevice], manifest: Manifest, request: PlanRequest) -> list[PlannerDevice]:
    """Those that decode as it is asked for. Raises InvalidInput where no device could, or none of these can."""
    if request.decode == "rows":
        return devices
    if manifest.config.prefix_whole:
        raise InvalidInput(
            "this model reads a prompt in both directions: it is decoded row by row", advice="deploy it without --decode pairs"
        )
    able = [device for device in devices if device.decodes_pairs]
    if not able:
        raise InvalidInput("no agent of these devices decodes by pairs: they are of the release before", advice="update them")
    return able


def _context(manifest: Manifest, request: PlanRequest) -> int:
    tables = [tensor for part in manifest.parts if part.name == POSITIONS for tensor in part.variants[0].tensors]
    longest = min([manifest.config.max_positions, *(tensor.shape[0] for tensor in tables)])
    context = min(longest, DEFAULT_CONTEXT) if request.context is None else request.context
    if not 2 <= context <= longest:
        raise InvalidInput(f"a context of {context} tokens: this model takes 2 to {longest}", advice="choose another --context")
    if request.slots < 1:
        raise InvalidInput(f"{request.slots} slots: at least one sequence must fit", advice="choose another --slots")
    return context


def _check_stages(manifest: Manifest, request: PlanRequest, devices: int) -> None:
    if request.stages is None:
        return
    if not 1 <= request.stages <= manifest.config.layers:
        raise InvalidInput(
            f"{request.stages} stages: the model has {manifest.config.layers} layers, and each stage takes at least one",
            advice=f"choose --stages from 1 to {min(manifest.config.layers, devices)}"
            + (", since so many devices can be used" if devices < manifest.config.layers else ""),
        )
    if request.stages > devices:
        raise NoSpace(
            f"{request.stages} stages need {request.stages} devices; {devices} can be used", advice="add devices, or choose fewer --stages"
        )


def _tight(devices: Sequence[PlannerDevice]) -> list[tuple[str, Storage]]:
    return [(device.name, device.storage) for device in devices if device.storage]


def _check_disks(manifest: Manifest, devices: Sequence[PlannerDevice], request: PlanRequest, context: int, counts: Iterable[int]) -> None:
    """Raises NoSpace where nothing but room on disk is missing."""
    if not (tight := _tight(devices)):
        return
    search = Search(manifest, [replace(device, storage=None) for device in devices], request, context)
    if any(map(search.layout, counts)):
        size = bytes_text(sum(weights(manifest, [part.name for part in manifest.parts]).values()))
        raise NoSpace(
            f"the model ({size}) fits into the memory of these devices, and not on their disks: {'; '.join(words_of(tight))}",
            advice="free some disk on them, or add devices",
        )


def _no_space(manifest: Manifest, devices: Sequence[PlannerDevice], request: PlanRequest, shape: PipelineShape) -> NoSpace:
    """What is missing: the piece that cannot be made smaller, if no device takes it, else the sum."""
    layers = manifest.config.layers
    largest = max(devices, key=lambda device: device.memory_bytes)  # the first of equals
    remedy = "add devices"
    whole = stage_need(manifest, stage_parts(manifest, 0, layers, head=True), shape)
    if shape.groups == 1:
        name, need = "the whole model", whole
    else:
        pieces = {f"layers.{i}": stage_need(manifest, stage_parts(manifest, i, i + 1), shape) for i in range(1, layers)}
        pieces["embedding, layers.0 and head"] = stage_need(manifest, stage_parts(manifest, 0, 1, head=True), shape)
        name, need = max(pieces.items(), key=lambda piece: piece[1].total_bytes)
    if need.total_bytes > largest.memory_bytes:
        room = f"the largest free device is {largest.name} with {bytes_text(largest.memory_bytes)}"
        remedy = "add devices with more memory" if shape.groups > 1 else remedy
    else:
        name, need = f"the model in {shape.groups} stages", whole
        free = sum(sorted((device.memory_bytes for device in devices), reverse=True)[: shape.groups])
        room = f"the largest {shape.groups} devices have {bytes_text(free)} free together, at most {bytes_text(largest.memory_bytes)} each"
    if request.stages and request.stages < min(layers, len(devices)):
        remedy = "allow more --stages, " + remedy
    buffers = bytes_text(need.activation_bytes)
    memory = f"{bytes_text(need.weight_bytes)} plus {bytes_text(need.kv_bytes)} of KV cache and {buffers} of buffers"
    advice = f"{remedy}, or lower --context ({shape.context}) or --slots ({request.slots})"
    return NoSpace(f"{name} needs {memory}; {room}", advice=advice)
