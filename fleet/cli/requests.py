"""The command that lists requests or cancels one."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fleet.cli.client import connect
from fleet.cli.options import HomeOption, JsonOption, open_home
from fleet.cli.output import NONE, note, print_json
from fleet.cli.tables import Column, print_table

SHOWN = 12  # characters of an id, which is enough to name it


def requests(
    cancel: Annotated[
        str | None, typer.Option("--cancel", metavar="REQUEST", help="End this one (its id, or how it begins).", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """List the requests on their way and the last that have ended, or cancel one.

    Example: glmfleet requests
    """
    with connect(open_home(home)) as coordinator:
        if cancel is not None:
            coordinator.cancel(cancel)
            note(f"{cancel} is being cancelled")
            return
        found = coordinator.requests()
    if as_json:
        print_json(found)
        return
    if not found:
        note("no request was made since the coordinator started")
        return
    columns = [
        Column("request", "names"),
        Column("state"),
        Column("prompt", "figure"),
        Column("answer", "figure"),
        Column("age s", "figure"),
        Column("attempts", "figure"),
        Column("pipeline", "names"),
    ]
    now = time.time()
    rows = [
        [
            view.request_id[:SHOWN],
            view.finish_reason or view.state,
            str(view.prompt_tokens),
            str(view.completion_tokens),
            f"{now - view.accepted_at:.0f}",
            str(view.attempts),
            view.pipeline_id or NONE,
        ]
        for view in found
    ]
    print_table(columns, rows)
    for view in found:
        if view.detail:
            note(f"{view.request_id[:SHOWN]}: {view.detail}")
