"""The way that an error took through the fleet, device by device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

MOST_HOPS = 16  # that a message carries, the last ones: they are the nearest to what went wrong
NAME_LENGTH = 32  # twice a device's id; so long a route leaves room for the cause in what a call's status may say


@dataclass(frozen=True)
class Hop:
    """A device that an error came through: its id, or its name where that is known; and its stage when it came along a ring."""

    device: str
    stage: int | None = None

    def __str__(self) -> str:
        return self.device if self.stage is None else f"stage {self.stage} on {self.device}"


Route = tuple[Hop, ...]  # the first is the nearest to whoever reads it


def in_words(route: Route) -> str:
    """What stands in front of the error's own words."""
    return "".join(f"{hop}: " for hop in route)


def named(route: Route, names: Mapping[str, str]) -> Route:
    """With the names of the devices whose ids `names` knows."""
    return tuple(replace(hop, device=names.get(hop.device, hop.device)) for hop in route)
