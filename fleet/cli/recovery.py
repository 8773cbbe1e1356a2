"""What became of deployments that have lost a device, told until they answer again."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fleet.cli.client import CoordinatorClient
from fleet.cli.output import figure, note

POLL_SECONDS = 0.2
# Without any change a plan that could not be made is what stands in the way: only a device that comes helps, and that may take for ever.
QUIET_SECONDS = 15.0


def await_recovery(coordinator: CoordinatorClient, names: Sequence[str]) -> None:
    """Say what each of these deployments lacks, and after how many seconds it is whole again; returns when all are, are gone, or have
    not changed for QUIET_SECONDS. Raises FleetError."""
    began = changed = time.monotonic()
    told = dict.fromkeys(names, "")
    while told and time.monotonic() - changed < QUIET_SECONDS:
        views = {view.name: view for view in coordinator.deployments()}
        for name in list(told):
            view, seconds = views.get(name), time.monotonic() - began
            if view is None or view.state == "ready":
                del told[name]
                note(f"{name} is gone" if view is None else f"{name} is whole again after {figure(seconds)} s")
            elif view.detail != told[name]:
                told[name], changed = view.detail, time.monotonic()
                note(f"{name} is {view.state}: {view.detail}")
        if told:
            time.sleep(POLL_SECONDS)
    if told:
        note(f"{', '.join(told)} goes on as soon as that is over; to see: glmfleet deployments")
