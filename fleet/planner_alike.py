"""Real boards that are as fast as one another, but for the noise of measuring it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from fleet.planner_costs import PlannerDevice
from protos.roofline import Figures

# A board measures its bandwidth by a few short copies at its start: on one machine they differ by a tenth from start to start, and more
# beside a busy neighbour. Taken at their word, four boards of one kind would be cut into one stage with nearly all layers and three with
# one each.
SPREAD = 1.25


def evened(devices: Sequence[PlannerDevice]) -> list[PlannerDevice]:
    """The same devices in the same order; real ones of one profile whose bandwidth differs by less than SPREAD are given their median."""
    kinds: dict[tuple[str, Figures], list[PlannerDevice]] = {}
    for device in devices:
        if not device.simulated:
            kinds.setdefault((device.profile, _with_bandwidth(device.figures, 0.0)), []).append(device)
    even = {}
    for kind in kinds.values():
        kind.sort(key=_bandwidth)
        while kind:
            alike = [device for device in kind if _bandwidth(device) <= SPREAD * _bandwidth(kind[0])]
            middle = median(map(_bandwidth, alike))
            even.update({one.device_id: replace(one, figures=_with_bandwidth(one.figures, middle)) for one in alike})
            kind = kind[len(alike) :]
    return [even.get(device.device_id, device) for device in devices]


def _bandwidth(device: PlannerDevice) -> float:
    return device.figures.linear_bytes_per_second


def _with_bandwidth(figures: Figures, bytes_per_second: float) -> Figures:
    return replace(figures, linear_bytes_per_second=bytes_per_second)
