"""Commands for a local fleet of simulated devices: up, down, status, and what could be simulated; faults are next door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fleet.cli import sim_faults
from fleet.cli.device import MemoryOption
from fleet.cli.options import HomeOption, InsecureOption, JsonOption, open_home, parse_names, parse_size
from fleet.cli.output import count_text, note, print_json
from fleet.cli.profiles import profiles
from fleet.cli.sim_fleet import Pace, device_specs, hollow_spec, local_fleet
from fleet.cli.sim_keep import keep
from fleet.cli.tables import Column, print_table
from protos.errors import InvalidInput
from sim_devices.figures import is_path
from sim_devices.fleet_file import FleetFile, gallery_text, load_fleet
from sim_devices.local_fleet import DeviceSpec, LocalDevice, LocalFleet
from sim_devices.profiles import DIALECTS, TIMINGS

TimingOption = Annotated[
    str, typer.Option("--timing", help=f"What modelled time is of (default: the profile's): {', '.join(TIMINGS)}.", show_default=False)
]
app = typer.Typer(name="sim", rich_markup_mode="rich")
sim_faults.register(app)


@app.command()
def up(
    fleet: Annotated[
        str | None,
        typer.Argument(metavar="[FLEET]", help="A fleet file, or one that comes along (glmfleet sim gallery).", show_default=False),
    ] = None,
    devices: Annotated[int | None, typer.Option("--devices", "-n", min=1, max=256, help="How many (default: one of each profile).")] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="A,B", help="Profiles, in turn (default: three kinds).", show_default=False)
    ] = None,
    hollow: Annotated[
        int | None,
        typer.Option("--hollow", min=1, max=20_000, help="So many hollow devices: one process, no mathematics, for the control plane."),
    ] = None,
    pace: Annotated[Pace, typer.Option("--pace", help="realtime waits until the modelled time has passed.")] = "fast",
    timing: TimingOption = "",
    dialect: Annotated[
        str, typer.Option("--dialect", help=f"What they run (default: the profile's): {', '.join(DIALECTS)}.", show_default=False)
    ] = "",
    memory: MemoryOption = None,
    gallery: Annotated[
        str | None, typer.Option("--gallery", metavar="NAME", help="A fleet that comes along, as FLEET.", show_default=False)
    ] = None,
    faults: Annotated[bool, typer.Option("--faults/--no-faults", help="Let the file's faults happen.")] = True,
    links: Annotated[bool, typer.Option("--links", help="Put links between all devices, so that they can be cut.")] = False,
    kept: Annotated[bool, typer.Option("--keep", help="Stay, and start again whatever ends.")] = False,
    insecure: InsecureOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Start simulated devices, beside those that run.

    Example: glmfleet sim up --devices 3 --profile rk3588
    """
    opened = open_home(home)
    local = local_fleet(opened)
    if chosen := fleet or gallery:
        if (fleet and gallery) or devices or profile or memory or hollow or timing or dialect:
            raise InvalidInput("a fleet file says itself which devices there are", advice=f"glmfleet sim up {chosen}")
        if kept and faults and load_fleet(chosen).faults:
            raise InvalidInput("--keep would undo the file's faults", advice="add --no-faults, or leave out --keep")
        started = up_fleet(local, chosen, insecure=insecure, with_faults=faults)
    elif hollow and links:
        raise InvalidInput("hollow devices have no links of their own", advice="start them without --links, beside others with it")
    else:
        profiles, memory_bytes = parse_names(profile), None if memory is None else parse_size(memory)
        specs = [] if hollow and devices is None else device_specs(profiles, devices, pace, memory_bytes, timing=timing, dialect=dialect)
        specs += [hollow_spec(profiles, hollow, memory_bytes)] if hollow else []
        started = local.up([replace(spec, linked=links) for spec in specs], insecure=insecure)
    if as_json:
        print_json(started)
    else:
        print_local(started)
        if opened.running_coordinator() is None:
            note("next, in another terminal: glmfleet serve")
    if kept:
        keep(local)


@app.command()
def down(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Which (default: all).", show_default=False)] = None,
    purge: Annotated[bool, typer.Option("--purge", help="Delete their state too: identity and weights.")] = False,
    home: HomeOption = None,
) -> None:
    """Stop simulated devices.

    Example: glmfleet sim down
    """
    local = local_fleet(open_home(home))
    held = {device.name: device.hollow or 1 for device in local.status()}
    stopped = local.down(names or (), purge=purge)
    kept = "" if purge else "; what they hold is kept for the next time (--purge deletes it)"
    note(f"{count_text(sum(held[name] for name in stopped), 'device')} stopped{kept}" if stopped else "no simulated device was running")


@app.command()
def status(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List the simulated devices of this home.

    Example: glmfleet sim status --json
    """
    found = local_fleet(open_home(home)).status()
    if as_json:
        print_json(found)
    elif found:
        print_local(found)
    else:
        note("no simulated devices; start some: glmfleet sim up --devices 3")


app.command()(profiles)


def up_fleet(local: LocalFleet, chosen: str, *, insecure: bool, with_faults: bool) -> list[LocalDevice]:
    """All of a fleet file, its links before its devices and its faults after them. Raises FleetError."""
    described = load_fleet(chosen)
    text = Path(chosen).read_text(encoding="utf-8") if is_path(chosen) else gallery_text(chosen)
    origin = [described.name, str(Path(chosen).absolute().parent)]
    started = local.up(fleet_specs(described), insecure=insecure, world=[["links", *origin, text]])
    if with_faults and described.faults:
        local.world.ask("scenario", *origin, text)
        note(f"{count_text(len(described.faults), 'fault')} will happen by its scenario: glmfleet sim faults (--no-faults: none)")
    return started


def fleet_specs(described: FleetFile) -> list[DeviceSpec]:
    return [
        DeviceSpec(
            device.profile,
            name=device.name,
            pace=device.pace,
            memory_bytes=device.memory_bytes,
            ambient_celsius=device.ambient_celsius,
            labels=device.labels,
            linked=True,
            timing=device.timing,
            dialect=device.dialect,
        )
        for device in described.devices
    ]


def print_local(found: Sequence[LocalDevice]) -> None:
    columns = [Column("name", "names"), Column("profile"), Column("pace"), Column("state"), Column("address"), Column("pid", "figure")]
    rows = [
        [
            one.name,
            one.profile.replace(",", " "),
            f"{one.hollow:,} hollow" if one.hollow else one.pace,
            "running" if one.running else "ended",
            one.address or "-",
            str(one.pid),
        ]
        for one in found
    ]
    print_table(columns, rows)
    for one in found:
        if one.detail:
            note(f"{one.name} ended: {one.detail}")
