"""The simulated devices of a home, for the commands that start, stop and trouble them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

from fleet.home import Home
from fleet.trust.authority import Authority, Role
from sim_devices.local_fleet import DeviceSpec, LocalFleet
from sim_devices.profiles import load_profile

DEFAULT_PROFILES = ("horizon-journey-5", "jetson-orin-nano-super", "rk3588")
Pace = Literal["fast", "realtime"]


def local_fleet(home: Home) -> LocalFleet:
    """They get their identities from its fleet authority."""

    def issue(role: Role) -> Callable[[Path, str], None]:
        return lambda folder, name: Authority.open(home.authority).issue_folder(folder, role, name)

    return LocalFleet(home.path, issue("device"), issue("gateway"))


def device_specs(
    profiles: Sequence[str], count: int | None, pace: Pace, memory_bytes: int | None, *, timing: str = "", dialect: str = ""
) -> list[DeviceSpec]:
    """`count` devices that take the profiles in turn; one of each when no count is given. Raises NotFound for an unknown profile,
    InvalidInput for one that cannot be timed, or spoken to, like this."""
    chosen = profiles or DEFAULT_PROFILES
    for name in chosen:
        load_profile(name).run_as(timing, dialect)
    spec = DeviceSpec("", pace=pace, memory_bytes=memory_bytes, timing=timing, dialect=dialect)
    return [replace(spec, profile=name) for name in islice(cycle(chosen), count or len(chosen))]


def hollow_spec(profiles: Sequence[str], count: int, memory_bytes: int | None) -> DeviceSpec:
    """`count` hollow devices that take the profiles in turn, behind one gateway. Raises NotFound for an unknown profile."""
    chosen = profiles or DEFAULT_PROFILES
    for name in chosen:
        load_profile(name)
    return DeviceSpec(",".join(chosen), prefix="hollow", memory_bytes=memory_bytes, hollow=count)
