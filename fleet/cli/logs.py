"""The command that shows the log of a device, or of the coordinator, from wherever it is called."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fleet.cli.client import CoordinatorClient, connect
from fleet.cli.options import HomeOption, JsonOption, open_home
from fleet.cli.output import note, print_json, say
from fleet.devices.views import LogView
from protos.recent_log import MOST_LINES, LogLine

FOLLOW_SECONDS = 1.0


def logs(
    device: Annotated[
        str, typer.Argument(metavar="[DEVICE]", help="Its name or id (default: the coordinator's own log).", show_default=False)
    ] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=MOST_LINES, help="At most so many, the last.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """The last lines of the log of a device, or of the coordinator.

    A program keeps its last 1,000 lines. No prompt and no answer is in them.

    Example: glmfleet logs dev-1 --follow
    """
    if follow and as_json:
        raise typer.BadParameter("--follow writes lines as they come, --json one list: choose one of them")
    with connect(open_home(home)) as coordinator:
        found = coordinator.logs(device, 0, lines)
        if as_json:
            print_json(found)
            return
        for line in found.lines:
            say(line_text(line))
        if not found.lines:
            note("nothing was logged since it started")
        if follow:
            _follow(coordinator, device, found)


def line_text(line: LogLine) -> str:
    """Its time is this machine's, by the clock of the machine that logged it."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(line.at))} {line.level} {line.logger}: {line.text}"


def _follow(coordinator: CoordinatorClient, device: str, seen: LogView) -> None:
    """For ever."""
    while True:
        time.sleep(FOLLOW_SECONDS)
        last = seen.lines[-1].number if seen.lines else 0
        now = coordinator.logs(device, last, MOST_LINES)
        if now.boot_id != seen.boot_id:
            note("it was started again")
            now, last = coordinator.logs(device, 0, MOST_LINES), 0
        elif now.lines and now.lines[0].number > last + 1:
            note(f"{now.lines[0].number - last - 1} lines were not kept")
        for line in now.lines:
            say(line_text(line))
        if now.lines or now.boot_id != seen.boot_id:
            seen = now
