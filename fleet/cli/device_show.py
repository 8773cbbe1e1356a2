"""The command that shows one device, and what was believed of it."""

from __future__ import annotations

from datetime import datetime

from fleet.cli.client import connect
from fleet.cli.devices import DeviceArgument, print_devices
from fleet.cli.options import HomeOption, JsonOption, open_home
from fleet.cli.output import note, print_json, say
from fleet.cli.tables import Column, print_table
from fleet.devices.views import StateChange


def show(device: DeviceArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Show a device, and when it was online, suspect or offline, and why.

    Example: glmfleet devices show dev-1
    """
    with connect(open_home(home)) as coordinator:
        view = coordinator.device(device)
    if as_json:
        print_json(view)
        return
    print_devices([view])
    if view.hardware:
        note(f"it computes with {view.hardware}")
    say()
    if not view.history:
        note("its state has not changed since the coordinator started")
        return
    columns = [Column("when", "names"), Column("was"), Column("is"), Column("why")]
    print_table(columns, [[_time(change), change.before, change.state, change.why] for change in view.history])


def _time(change: StateChange) -> str:
    at = datetime.fromtimestamp(change.at).astimezone()
    return f"{at:%Y-%m-%d %H:%M:%S.%f}"[:-5] + f" {at:%Z}"
