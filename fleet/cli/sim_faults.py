"""Commands that trouble a local fleet: fault, faults, scenario; and the gallery of fleets that come along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.cli.options import HomeOption, JsonOption, open_home
from fleet.cli.output import count_text, note, print_json, say
from fleet.cli.sim_fleet import local_fleet
from fleet.cli.tables import Column, print_table
from protos.errors import InvalidInput
from sim_devices import quantities
from sim_devices.faults import USAGE, parse_fault
from sim_devices.figures import is_path
from sim_devices.fleet_file import gallery as gallery_names
from sim_devices.fleet_file import gallery_text, load_fleet, load_scenario

_KINDS = "\n".join(f"  {usage:26} {meaning}" for usage, meaning in USAGE.values())


def register(app: typer.Typer) -> None:
    app.command(context_settings={"ignore_unknown_options": True}, help=_FAULT_HELP)(fault)
    app.command()(faults)
    app.command()(scenario)
    app.command()(gallery)


_FAULT_HELP = f"""Do something to the devices or their links, now or later.

\b
{_KINDS}

Heal starts killed devices again; who is in no group of a partition reaches all; DIGEST is how a blob's begins.

DEVICE is a name, a * pattern, several with commas, or one:PATTERN for one of them by chance; a link's end may be "coordinator".

Example: glmfleet sim fault kill dev-2 --after 3s --for 20s
"""


def fault(
    words: Annotated[list[str], typer.Argument(metavar="WHAT", help="As above.", show_default=False)],
    after: Annotated[str | None, typer.Option("--after", metavar="TIME", help="Not now.", show_default=False)] = None,
    lasting: Annotated[str | None, typer.Option("--for", metavar="TIME", help="Undone after so long.", show_default=False)] = None,
    home: HomeOption = None,
) -> None:
    parsed = parse_fault(" ".join(words))
    wait, length = _seconds("--after", after), _seconds("--for", lasting)
    world = local_fleet(open_home(home)).with_world()
    number = world.ask("fault", str(wait or 0.0), "" if length is None else str(length), parsed.text, timeout_seconds=90.0)
    note(f"{number}: {parsed.text}" + (f" in {after}" if after else "") + (f", for {lasting}" if lasting else ""))


def faults(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Show which faults are active and which are to come, and the log of what happened.

    Example: glmfleet sim faults --json
    """
    local = local_fleet(open_home(home))
    if not local.world.running:
        found: Any = {"now_ms": 0, "active": [], "to_come": [], "log": []}
    else:
        found = local.world.ask("faults")
    found["log"] = [json.loads(line) for line in found["log"]]
    if as_json:
        print_json(found)
        return
    rows = [
        [str(one["number"]), _until(one, found["now_ms"]), one["what"]]
        for one in sorted(found["active"], key=lambda one: int(one["number"]))
    ]
    rows += [[str(one["number"]), _coming(one, found["now_ms"]), one["what"]] for one in found["to_come"] if one["act"] == "start"]
    if rows:
        print_table([Column("number", "figure"), Column("state"), Column("fault", "names")], rows)
    else:
        note("no fault is active, none is to come")
    if found["log"]:
        say()
        columns = [Column("s", "figure"), Column("number", "figure"), Column("what"), Column("")]
        print_table(columns, [[f"{one['at_ms'] / 1000:.3f}", str(one["number"]), _happened(one), one["detail"]] for one in found["log"]])


def scenario(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A fleet file, one of the gallery, or one with faults alone.")],
    home: HomeOption = None,
) -> None:
    """Let the faults of a file happen to the devices that run, from now on.

    Example: glmfleet sim scenario storm.toml
    """
    count = len(load_scenario(file).faults)
    text = Path(file).read_text(encoding="utf-8") if is_path(file) else gallery_text(file)
    world = local_fleet(open_home(home)).with_world()
    world.ask("scenario", Path(file).name, str(Path(file).absolute().parent), text)
    note(f"{count_text(count, 'fault')} will happen: glmfleet sim faults")


def gallery(
    show: Annotated[str | None, typer.Option("--show", metavar="NAME", help="Print the file, to begin one's own.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the fleets that come along.

    Example: glmfleet sim gallery --show street > FLEET.toml
    """
    if show:
        say(gallery_text(show).rstrip())
        return
    fleets = [load_fleet(name) for name in gallery_names()]
    if as_json:
        print_json([{"name": one.name, "description": one.description, "devices": one.devices} for one in fleets])
        return
    rows = [[one.name, str(len(one.devices)), str(len(one.faults)), one.description] for one in fleets]
    print_table([Column("name", "names"), Column("devices", "figure"), Column("faults", "figure"), Column("what")], rows)
    note("start one: glmfleet sim up street; begin your own: glmfleet sim gallery --show street > FLEET.toml")


def _seconds(option: str, text: str | None) -> float | None:
    try:
        return None if text is None else quantities.seconds(text)
    except ValueError as error:
        raise InvalidInput(f"{option} is {text!r}", advice=f"allowed: {error}") from error


def _until(one: dict[str, Any], now_ms: int) -> str:
    left = one["until_ms"]
    return "active" if left is None else f"{max(0, left - now_ms) / 1000:.0f} s more"


def _coming(one: dict[str, Any], now_ms: int) -> str:
    return f"in {max(0, one['at_ms'] - now_ms) / 1000:.0f} s"


def _happened(one: dict[str, Any]) -> str:
    return str(one["what"]) if one["act"] == "start" else f"end of {one['what']}"
