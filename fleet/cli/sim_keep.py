"""`glmfleet sim up --keep`: simulated devices that end by themselves are started again, as an init system does on a board."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from fleet.cli.output import note
from fleet.cli.signals import Signals
from protos.errors import FleetError
from sim_devices.local_fleet import LocalDevice

LOOK_SECONDS = 0.25
# Before it is started again: doubled each time, and from the beginning once it has run for a while.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0
STEADY_SECONDS = 60.0


class Devices(Protocol):
    """Those of a home (sim_devices.local_fleet.LocalFleet)."""

    def status(self) -> list[LocalDevice]: ...

    def restart(self, name: str) -> LocalDevice: ...


class Keeper:
    """When each device is to be started again. Times in seconds of one clock."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._started: dict[str, float] = {}
        self._ended: dict[str, float] = {}

    def due(self, devices: Sequence[LocalDevice], now: float) -> list[LocalDevice]:
        """Of those that have ended, whose wait is over. Who was taken down is not among `devices`."""
        found = []
        for device in devices:
            if device.running:
                self._ended.pop(device.name, None)
                continue
            if device.name not in self._ended:
                self._ended[device.name] = now
                steady = now - self._started.get(device.name, now - STEADY_SECONDS) >= STEADY_SECONDS
                self._failures[device.name] = 0 if steady else self._failures.get(device.name, 0) + 1
            wait = min(FIRST_WAIT_SECONDS * 2.0 ** min(self._failures[device.name], 10), LONGEST_WAIT_SECONDS)
            if now - self._ended[device.name] >= wait:
                found.append(device)
        return found

    def started(self, name: str, now: float) -> None:
        """It was told to start; whether it runs is seen at the next look."""
        self._started[name] = now
        self._ended.pop(name, None)


def keep(devices: Devices, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
    """Until Ctrl-C, which leaves the devices running, or until all were taken down."""
    keeper = Keeper()
    note("whatever ends is started again; Ctrl-C ends that, and leaves the devices running")
    with Signals() as signals:
        while present := devices.status():
            for ended in keeper.due(present, clock()):
                note(f"{ended.name} ended: {ended.detail}; it is started again")
                try:
                    with signals.held():
                        devices.restart(ended.name)
                except FleetError as error:
                    note(f"{ended.name} could not be started: {error.detail}")
                keeper.started(ended.name, clock())
            sleep(LOOK_SECONDS)
    note("no simulated device is left")
