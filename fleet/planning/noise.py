"""Real boards that are as fast as one another, but for the noise of measuring it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from fleet.planning.costs import PlannerDevice
from protos.physics.roofline import Figures

# A board measures its bandwidth by a few short copies at its start: on one machine they differ by a tenth from start to start, and more
# beside a busy neighbour. Taken at their word, four boards of one kind would be cut into one stage with nearly all layers and three with
# one each.
NOISE = 1.15
# Of a row of boards each of which is within the noise of the one before.
WIDEST = 1.5


def evened(devices: Sequence[PlannerDevice]) -> list[PlannerDevice]:
    """The same devices in the same order; real ones of one profile whose bandwidths lie so close together that noise may be what parts
    them are given their median."""
    kinds: dict[tuple[str, Figures], list[PlannerDevice]] = {}
    for device in devices:
        if not device.simulated:
            kinds.setdefault((device.profile, _with_bandwidth(device.figures, 0.0)), []).append(device)
    even = {}
    for kind in kinds.values():
        for alike in _groups(sorted(kind, key=_bandwidth)):
            middle = median(map(_bandwidth, alike))
            even.update({one.device_id: replace(one, figures=_with_bandwidth(one.figures, middle)) for one in alike})
    return [even.get(device.device_id, device) for device in devices]


def _groups(ascending: Sequence[PlannerDevice]) -> list[list[PlannerDevice]]:
    groups: list[list[PlannerDevice]] = []
    for device in ascending:
        bandwidth = _bandwidth(device)
        if groups and bandwidth <= min(NOISE * _bandwidth(groups[-1][-1]), WIDEST * _bandwidth(groups[-1][0])):
            groups[-1].append(device)
        else:
            groups.append([device])
    return groups


def _bandwidth(device: PlannerDevice) -> float:
    return device.figures.linear_bytes_per_second


def _with_bandwidth(figures: Figures, bytes_per_second: float) -> Figures:
    return replace(figures, linear_bytes_per_second=bytes_per_second)
