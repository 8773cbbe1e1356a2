"""What of a plan has to be sent, once it is known what its devices have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fleet.planning.costs import weights
from fleet.planning.plan import Plan
from fleet.planning.why import sending_line
from protos.ids import Digest
from protos.manifest import Manifest


def with_present(manifest: Manifest, plan: Plan, present: Mapping[str, frozenset[Digest]]) -> Plan:
    """`present`: the blobs that each device id has already. It changes what is to be sent, never which devices are best."""

    def lacking_bytes(device: str, parts: tuple[str, ...]) -> int:
        here = present.get(device, frozenset())
        return sum(size_bytes for digest, size_bytes in weights(manifest, parts).items() if digest not in here)

    stages = tuple(replace(stage, push_bytes=lacking_bytes(stage.device_id, stage.parts)) for stage in plan.stages)
    known = replace(plan, stages=stages)
    return replace(known, why=(*plan.why, sending_line(known)))
