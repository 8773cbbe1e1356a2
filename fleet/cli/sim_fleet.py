"""The simulated devices of a home, for the commands that start, stop and trouble them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fleet.home import Home
from fleet.trust.authority import Authority, Role
from sim_devices.local_fleet import LocalFleet


def local_fleet(home: Home) -> LocalFleet:
    """They get their identities from its fleet authority."""

    def issue(role: Role) -> Callable[[Path, str], None]:
        return lambda folder, name: Authority.open(home.authority).issue_folder(folder, role, name)

    return LocalFleet(home.path, issue("device"), issue("gateway"))
