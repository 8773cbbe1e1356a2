"""Which devices a plan may use: a pure function of what is known of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from fleet.devices.record import DeviceRecord
from fleet.planning.costs import PlannerDevice, weights
from fleet.planning.storage import Storage
from protos.chip.core import Core
from protos.chip.wire import core_of
from protos.dialects import DIALECT, ISA_DIALECT
from protos.errors import InvalidInput, NotFound, Unavailable
from protos.ids import DeviceId, Digest
from protos.manifest import Manifest
from protos.physics.roofline import Figures
from protos.physics.thermal import Thermal
from protos.v1 import device_pb2 as pb

_LONGEST_PROBLEM = 200  # characters: it is a device's own word


def candidates(
    records: Sequence[DeviceRecord], keys: Sequence[str], *, replaces: str, reserved: Collection[DeviceId] = ()
) -> list[PlannerDevice]:
    """The devices that a plan may use: online, able to run our graphs, not `reserved` nor to be switched off, and named by `keys` if there
    are any.

    A key is a name, an id, or a label ("key=value"). Stages of deployment `replaces` count as free memory: they are unloaded first.
    Raises NotFound for a key of no device, Unavailable for one of a device that is not online.
    """
    online = [record for record in records if _usable(record)]
    chosen = {record.device_id for key in keys for record in _named(key, records, online)}
    free = [record for record in online if record.device_id not in reserved and (not keys or record.device_id in chosen)]
    return [_planner_device(record.device_id, record.description, replaces) for record in free if record.description is not None]


def tight(devices: Sequence[PlannerDevice], manifest: Manifest) -> list[DeviceId]:
    """Those whose disk has no room for all of the model: what of it they have already decides."""
    return [DeviceId(device.device_id) for device in devices if device.storage and device.storage.free_bytes < _size_bytes(manifest)]


def with_present(
    devices: Sequence[PlannerDevice], records: Sequence[DeviceRecord], manifest: Manifest, present: Mapping[DeviceId, frozenset[Digest]]
) -> list[PlannerDevice]:
    """The same devices, knowing what their disks can take. `present`: blobs that are whole on those that are `tight`."""
    asked = set(tight(devices, manifest))
    loaded = {record.device_id: record.description.stages for record in records if record.description is not None}
    found = []
    for device in devices:
        storage = None
        if device.storage and (key := DeviceId(device.device_id)) in asked:
            here = present.get(key, frozenset())
            storage = replace(device.storage, present=here, in_use=here & _in_use(loaded.get(key, ()), manifest))
        found.append(replace(device, storage=storage))
    return found


def _size_bytes(manifest: Manifest) -> int:
    return sum(weights(manifest, [part.name for part in manifest.parts]).values())


def _in_use(stages: Iterable[pb.StageStatus], manifest: Manifest) -> set[Digest]:
    """By loaded stages of this very model; of another that shares a blob nothing is known, and it counts as one that could be dropped."""
    parts = {part for stage in stages if stage.manifest_digest == manifest.digest for part in stage.parts}
    return set(weights(manifest, [part.name for part in manifest.parts if part.name in parts]))


def of_those_here(records: Sequence[DeviceRecord], keys: Sequence[str]) -> tuple[str, ...]:
    """The keys that name a device which may be used now. Raises NotFound when there were some and none does."""
    online = [record for record in records if _usable(record)]
    here = tuple(key for key in keys if any(_names(key, record) for record in online))
    if keys and not here:
        raise NotFound(
            f"none of the devices that it was asked for is online: {', '.join(keys)}", advice="`glmfleet devices` shows their states"
        )
    return here


def _names(key: str, record: DeviceRecord) -> bool:
    name, equals, value = key.partition("=")
    if equals:
        return record.description is not None and record.description.labels.get(name) == value
    return key in (record.device_id, record.name)


def _usable(record: DeviceRecord) -> bool:
    return record.state == "online" and not record.draining and _able(record)


def _able(record: DeviceRecord) -> bool:
    """To run what we have: graphs, or programs of a core that we can compile for."""
    if record.description is None:
        return False
    timed = not record.description.accelerator.timed_by_programs or core_told(record.description) is not None
    return timed and bool(_known_dialects(record.description))


def core_told(description: pb.DeviceDescription) -> Core | None:
    """None where it tells of none, or of what is none."""
    if not description.accelerator.HasField("core"):
        return None
    try:
        return core_of(description.accelerator.core)
    except InvalidInput:
        return None


def runs_programs(description: pb.DeviceDescription) -> bool:
    """In the place of graphs: of what we have, a device names first what it runs best."""
    return _known_dialects(description)[:1] == [ISA_DIALECT]


def _known_dialects(description: pb.DeviceDescription) -> list[str]:
    core = core_told(description)
    return [one for one in description.dialects if one == DIALECT or (one == ISA_DIALECT and core is not None)]


def _named(key: str, records: Sequence[DeviceRecord], online: Sequence[DeviceRecord]) -> list[DeviceRecord]:
    found = [record for record in online if _names(key, record)]
    if not found and "=" in key:
        raise NotFound(f"no device that is online has the label {key!r}", advice="see `glmfleet devices --json`")
    if not found:
        away = next((record for record in records if key in (record.device_id, record.name)), None)
        if away is None:
            known = ", ".join(record.name for record in records[:20])
            raise NotFound(f"no device {key!r}", advice=f"devices: {known}" if known else "no device was found yet: glmfleet doctor")
        if away.draining:
            raise Unavailable(f"{away.name} is to be switched off", advice=f"keep it: glmfleet devices undrain {away.name}")
        raise Unavailable(f"{away.name} is {away.state}: {away.detail}", advice="glmfleet doctor shows what was tried")
    return found


def _planner_device(device: DeviceId, description: pb.DeviceDescription, replaces: str) -> PlannerDevice:
    accelerator = description.accelerator
    return PlannerDevice(
        device_id=device,
        name=description.name or device,
        profile=accelerator.profile,
        simulated=accelerator.simulated,
        hollow=accelerator.hollow,
        memory_bytes=_free_bytes(description, replaces),
        figures=Figures(**{name: getattr(accelerator.figures, name) for name in Figures.__dataclass_fields__}),
        thermal=Thermal(**{name: getattr(accelerator.thermal, name) for name in Thermal.__dataclass_fields__})
        if accelerator.HasField("thermal")
        else None,
        storage=_storage(description),
        keeps_standbys=description.keeps_standbys,
        decodes_pairs=description.decodes_pairs,
        core=core_told(description),
        timed_by_programs=accelerator.timed_by_programs,
        runs_programs=runs_programs(description),
    )


def _storage(description: pb.DeviceDescription) -> Storage | None:
    """None: it does not say what it could drop, as releases before did not."""
    if not description.HasField("storage_droppable_bytes"):
        return None
    problem = " ".join(description.storage_problem.split())[:_LONGEST_PROBLEM]
    return Storage(description.storage_free_bytes + description.storage_droppable_bytes, problem=problem)


def _free_bytes(description: pb.DeviceDescription, replaces: str) -> int:
    """Of the memory for stages: what is really held counts where it is more than what was promised, less the share of what is replaced."""
    replaced = sum(stage.memory_bytes for stage in description.stages if stage.generation.deployment == replaces)
    promised = description.memory_used_bytes
    kept = 1.0 if not promised else max(0.0, 1 - replaced / promised)
    beyond = max(0, description.memory_held_bytes - promised) * kept
    return max(0, description.memory_bytes - promised + replaced - int(beyond))
