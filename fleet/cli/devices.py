"""The list of devices, which other commands show too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.client import connect
from fleet.cli.options import open_home
from fleet.cli.output import figure, in_order, note, print_json
from fleet.cli.tables import Column, print_table
from fleet.devices.views import DeviceView, DiscoveryReport
from protos.sizes import bytes_text

# More than fit on a screen are counted by kind, and only those in trouble named.
FEW = 40
NAMED = 20


DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="Its name or its id.")]
EverythingOption = Annotated[bool, typer.Option("--all", help=f"One line for each, also where there are more than {FEW}.")]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="Only those with this label; may be repeated.", show_default=False),
]


def list_devices(everything: bool, label: Sequence[str] | None, as_json: bool, home: Path | None) -> None:
    """What `glmfleet devices` prints."""
    wanted = parse_labels(label or ())
    with connect(open_home(home)) as coordinator:
        found = [device for device in coordinator.devices() if wanted.items() <= device.labels.items()]
        if as_json:
            print_json(found)
            return
        asking = coordinator.enrolments()
        for one in asking:
            note(
                f"{one.name} at {one.address} asks to join, with the fingerprint {one.fingerprint}: glmfleet devices accept {one.device_id}"
            )
        if not found and wanted:
            note(f"no device has {' and '.join(f'{key}={value}' for key, value in wanted.items())}")
            return
        if not found:
            for line in explain_none(coordinator.discovery(), asking=len(asking)):
                note(line)
            return
    print_devices(found, everything=everything)


def parse_labels(texts: Sequence[str]) -> dict[str, str]:
    """Of "key=value". Raises typer.BadParameter."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"not a label: {text!r}; write key=value")
        found[key] = value
    return found


def print_devices(found: Sequence[DeviceView], *, everything: bool = False) -> None:
    found = sorted(found, key=lambda device: in_order(device.name))
    if len(found) > FEW and not everything:
        print_counts(found)
        return
    columns = [Column("name", "names"), Column("profile"), Column("kind"), Column("state")]
    columns += [Column("memory", "figure"), Column("used", "figure")]
    rows = [_row(device) for device in found]
    gauges = {
        "W": [device.power_watts for device in found],
        "°C": [device.temperature_celsius for device in found],
        "bat. %": [None if device.battery_fraction is None else 100 * device.battery_fraction for device in found],
    }
    for title, values in gauges.items():
        if any(value is not None for value in values):
            columns.append(Column(title, "figure"))
            rows = [[*row, figure(value)] for row, value in zip(rows, values, strict=True)]
    print_table(columns, rows)
    for name, count in Counter(device.name for device in found).items():
        if count > 1:
            ids = ", ".join(device.device_id for device in found if device.name == name)
            note(f"{count} devices are called {name}; their ids tell them apart: {ids}")
    for device in found:
        for stage in device.stages:
            note(f"{device.name}: {stage}")
    for device in found:
        if device.detail:
            note(f"{device.name} is {device.state}: {device.detail}")
    for line in [*_relayed(found), *_drained(found), *_unable(found), *_throttled(found), *_holding(found)]:
        note(line)


def print_counts(found: Sequence[DeviceView]) -> None:
    """A line for each kind of device and state, and for each of the first that are not online or hold a stage."""
    counts = Counter((device.profile, kind(device), device.state) for device in found)
    memory = {(device.profile, kind(device), device.state): device.memory_bytes for device in found}
    columns = [Column("devices", "figure"), Column("profile"), Column("kind"), Column("state"), Column("memory each", "figure")]
    print_table(columns, [[f"{count:,}", *key, bytes_text(memory[key])] for key, count in sorted(counts.items())])
    _name_some([f"{device.name}: {stage}" for device in found for stage in device.stages], "stages")
    _name_some([f"{device.name} is {device.state}: {device.detail}" for device in found if device.detail], "devices")
    _name_some(_unable(found), "devices that can keep no more")
    _name_some(_throttled(found), "throttled devices")
    _name_some(_holding(found), "devices that hold too much")
    note(f"{len(found):,} devices; glmfleet devices --all lists each, --json all there is to know")


def kind(device: DeviceView) -> str:
    return "hollow" if device.hollow else "simulated" if device.simulated else "real"


def _relayed(found: Sequence[DeviceView]) -> list[str]:
    return [f"{one.name} dials out: all that it is sent passes through the coordinator" for one in found if one.found_by == "relay"]


def _drained(found: Sequence[DeviceView]) -> list[str]:
    words = {"draining": "draining", "drained": "drained: it may be switched off"}
    return [f"{one.name} is {words[one.drain]}{f': {one.drain_detail}' if one.drain_detail else ''}" for one in found if one.drain in words]


def _unable(found: Sequence[DeviceView]) -> list[str]:
    return [f"{device.name} can keep no more of a model: {device.storage_problem}" for device in found if device.storage_problem]


def _throttled(found: Sequence[DeviceView]) -> list[str]:
    return [f"{device.name} is throttled: it runs slower, to cool down" for device in found if device.throttled]


def _holding(found: Sequence[DeviceView]) -> list[str]:
    """What plans count, and no stage of the list explains."""
    return [f"{device.name} {held_text(device)}: restart its agent, and report it" for device in found if device.holds_too_much]


def held_text(device: DeviceView) -> str:
    held, promised = bytes_text(device.memory_held_bytes or 0), bytes_text(device.memory_used_bytes)
    return f"holds {held} of memory, {promised} are promised"


def _name_some(lines: Sequence[str], what: str) -> None:
    for line in lines[:NAMED]:
        note(line)
    if len(lines) > NAMED:
        note(f"and {len(lines) - NAMED:,} {what} more")


def explain_none(report: DiscoveryReport, *, asking: int = 0) -> list[str]:
    """Why the fleet is empty, and what to do: lines for people. `asking`: so many boards ask to join."""
    where = ", ".join(report.interfaces) or "no interface"
    looked = f"looked by mDNS on {where}" + (f", and at {', '.join(report.seeds)}" if report.seeds else "")
    lines = ["no device is of this fleet yet"] if asking else [f"no devices found: {looked}"]
    if report.other_fleets:
        lines.append(f"{report.other_fleets} seen that belong to another fleet (this one is {report.fleet_id})")
    lines += report.problems
    lines.append("take in who asks to join: glmfleet devices pending" if asking else "start some: glmfleet sim up --devices 3")
    return lines


def _row(device: DeviceView) -> list[str]:
    return [device.name, device.profile, kind(device), device.state, bytes_text(device.memory_bytes), bytes_text(device.memory_used_bytes)]
