"""A device as the API and the command show it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from fleet.deploying.candidates import core_told
from fleet.deploying.views import DeploymentView
from fleet.devices.record import US, DeviceRecord
from fleet.devices.registry import Registry
from fleet.devices.views import DeviceView
from fleet.telemetry.records import Registered, source_of
from protos.errors import Conflict, NotFound
from protos.ids import DeviceId
from protos.v1 import device_pb2 as pb
from protos.v1 import telemetry_pb2
from protos.versions import in_common
from quantize.parts import layer_number

LINE_LENGTH = 200  # of what a device says of itself in words


def device_views(
    records: Iterable[DeviceRecord], deployments: Iterable[DeploymentView], stays_on: Callable[[DeviceId], Sequence[str]]
) -> list[DeviceView]:
    """In the order of `records`; `stays_on`: what deployments still want of a device, a line each."""
    stages = {pipeline.pipeline_id: len(pipeline.stages) for view in deployments for pipeline in view.pipelines}
    return [device_view(record, stages, stays_on(record.device_id)) for record in records]


def find_device(devices: Sequence[DeviceView], key: str) -> DeviceView:
    """By id, else by name. Raises NotFound, and Conflict when several share the name."""
    for device in devices:
        if device.device_id == key:
            return device
    named = [device for device in devices if device.name == key]
    if len(named) > 1:
        raise Conflict(f"{len(named)} devices are named {key}", advice=f"use an id: {', '.join(device.device_id for device in named)}")
    if not named:
        known = ", ".join(sorted(device.name for device in devices)[:20]) or "none"
        raise NotFound(f"no device {key}", advice=f"devices here: {known}")
    return named[0]


def device_view(record: DeviceRecord, stages: Mapping[str, int], stays: Sequence[str] = ()) -> DeviceView:
    """`stages`: how many each pipeline has; `stays`: what deployments still want of it, a line each."""
    description = record.description or pb.DeviceDescription()
    accelerator, gauges = description.accelerator, telemetry_pb2.Gauges()
    if record.gauges is not None and record.state == "online":  # silent for some seconds: not those of now
        gauges = record.gauges
    metered = gauges is record.gauges and accelerator.energy_source != telemetry_pb2.ENERGY_SOURCE_UNMETERED
    left = [*stays] or [f"{stage.pipeline_id} is being unloaded" for stage in description.stages if record.connected]
    return DeviceView(
        device_id=record.device_id,
        name=record.name,
        address=record.address,
        state=record.state,
        simulated=accelerator.simulated,
        profile=accelerator.profile,
        pace=accelerator.pace,
        memory_bytes=description.memory_bytes,
        memory_used_bytes=max(description.memory_used_bytes, gauges.memory_used_bytes),  # a load that goes on is in a sample first
        memory_held_bytes=gauges.memory_held_bytes if gauges.HasField("memory_held_bytes") else None,
        drain=("draining" if left else "drained") if record.draining else "",
        drain_detail="; ".join(left) if record.draining else "",
        storage_problem=" ".join(gauges.storage_problem.split())[:LINE_LENGTH],
        energy_source=source_of(accelerator.energy_source),
        agent_version=description.agent_version,
        stages=tuple(_stage_line(stage, stages.get(stage.pipeline_id)) for stage in description.stages),
        labels=dict(description.labels),
        found_by=record.found_by,
        detail=record.detail,
        hollow=accelerator.hollow,
        protocol_version=in_common(description, record.name, US) if record.description is not None else 0,
        gateway=record.gateway or "",
        power_watts=gauges.power_watts if metered else None,
        temperature_celsius=gauges.temperature_celsius if gauges.HasField("temperature_celsius") else None,
        throttled=gauges.throttled,
        battery_fraction=gauges.battery_fraction if gauges.HasField("battery_fraction") else None,
        hardware=" ".join(accelerator.description.split())[:LINE_LENGTH],
        history=record.history,
        dialect=next(iter(description.dialects), "")[:LINE_LENGTH],
        core=core.name if (core := core_told(description)) else "",
    )


def registered(registry: Registry, device: str) -> Registered:
    """As which its telemetry is kept."""
    description = registry.description(DeviceId(device))
    return Registered(description.name or device, description.accelerator.hollow) if description else Registered(device)


def _stage_line(stage: pb.StageStatus, stages: int | None) -> str:
    """ "smollm2-135m stage 0 of 3: layers 0-9"."""
    of = f" of {stages}" if stages else ""
    numbers = sorted(number for part in stage.parts if (number := layer_number(part)) is not None)
    layers = f": layers {numbers[0]}-{numbers[-1]}" if numbers else ""
    return f"{stage.generation.deployment} stage {stage.stage}{of}{layers}"
