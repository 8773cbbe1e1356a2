"""The command that lists devices, and the table others show too."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.cli.client import connect
from fleet.cli.options import HomeOption, JsonOption, open_home
from fleet.cli.output import Column, bytes_text, in_order, note, print_json, print_table
from fleet.views import DeviceView, DiscoveryReport


def devices(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List the fleet's devices.

    Example: glmfleet devices --json
    """
    with connect(open_home(home)) as coordinator:
        found = coordinator.devices()
        if as_json:
            print_json(found)
            return
        if not found:
            for line in explain_none(coordinator.discovery()):
                note(line)
            return
    print_devices(found)


def print_devices(found: Sequence[DeviceView]) -> None:
    found = sorted(found, key=lambda device: in_order(device.name))
    columns = [Column("name"), Column("profile"), Column("kind"), Column("state"), Column("memory", True), Column("used", True)]
    print_table(columns, [_row(device) for device in found])
    for device in found:
        for stage in device.stages:
            note(f"{device.name}: {stage}")
    for device in found:
        if device.detail:
            note(f"{device.name} is {device.state}: {device.detail}")


def explain_none(report: DiscoveryReport) -> list[str]:
    """Why the fleet is empty, and what to do: lines for people."""
    where = ", ".join(report.interfaces) or "no interface"
    lines = [f"no devices found: looked by mDNS on {where}" + (f", and at {', '.join(report.seeds)}" if report.seeds else "")]
    if report.other_fleets:
        lines.append(f"{report.other_fleets} seen that belong to another fleet (this one is {report.fleet_id})")
    lines += report.problems
    lines.append("start some: glmfleet sim up --devices 3")
    return lines


def _row(device: DeviceView) -> list[str]:
    kind = "simulated" if device.simulated else "real"
    return [device.name, device.profile, kind, device.state, bytes_text(device.memory_bytes), bytes_text(device.memory_used_bytes)]
