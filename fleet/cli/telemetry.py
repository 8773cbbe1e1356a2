"""The command for what it cost, and how it went."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from fleet.api.encode import plain
from fleet.cli.client import connect
from fleet.cli.devices import FEW
from fleet.cli.history import history_rows, print_csv, print_history
from fleet.cli.options import HomeOption, JsonOption, open_home, parse_duration
from fleet.cli.output import NONE, count_text, figure, note, print_json
from fleet.cli.tables import Column, print_table
from fleet.deploying.balancing import not_deployed
from fleet.telemetry.views import CostRow, History

Form = Literal["table", "json", "csv"]
By = Literal["device", "model", "deployment", "request"]

# Of a request's id: enough to tell them apart in a list; --json has it whole.
_ID_CHARACTERS = 12
MOST_EXPLAINED = 3
PARTIAL = " ~"  # a word would not fit in a terminal's 80 columns


def telemetry(
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="How far back: 90s, 10m, 2h, 1d.")] = "10m",
    by: Annotated[By, typer.Option("--by", help="One line for each.")] = "device",
    history: Annotated[
        bool, typer.Option("--history", help="How it went instead: watts, tokens a second, joules a token, heat over the time.")
    ] = False,
    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="The history of this one alone (its name or id).", show_default=False)
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="How to print it.")] = "table",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """What it cost: seconds (wall and modelled) and joules, each with its source. What is not known of a device is said.

    Example: glmfleet telemetry --since 10m --by device --json
    """
    seconds = parse_duration(since)
    as_json = as_json or form == "json"
    with connect(open_home(home)) as coordinator:
        if history or device is not None:
            _show_history(coordinator.history(seconds, device), form, as_json=as_json)
            return
        rows = coordinator.telemetry(seconds, by)
        if not rows and not as_json and form == "table":
            asking = 'ask something: glmfleet generate "What is the capital of France?"'
            models = [] if (deployed := bool(coordinator.deployments())) else [each.name for each in coordinator.models()]
            note(f"nothing in the last {since}; {asking if deployed else not_deployed(None, (), models).advice}")
            return
    if as_json:
        print_json(rows)
    elif form == "csv":
        print_csv(plain(row) for row in rows)
    else:
        print_costs(rows, by)


def _show_history(found: History, form: Form, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    elif form == "csv":
        print_csv(history_rows(found))
    else:
        print_history(found)


def print_costs(rows: list[CostRow], by: By) -> None:
    columns = [
        Column(by, "names"),
        Column("asked", "figure"),
        Column("tokens", "figure"),
        Column("wall\nbusy s", "figure"),
        Column("modelled\nbusy s", "figure"),
        Column("busy J", "figure"),
        Column("idle J", "figure"),
        Column("J/token", "figure"),
        Column("source"),
    ]
    shown = rows if len(rows) <= FEW else [row for row in rows if not row.hollow]
    if shown:
        print_table(columns, [_row(row, by) for row in shown])
    if left := len(rows) - len(shown):
        joules = figure(sum(row.idle_joules or 0.0 for row in rows if row.hollow))
        note(f"{count_text(left, 'hollow device')}, which compute nothing: {joules} J idle, modelled; --json lists each")
    if partial := [row for row in shown if row.partial]:
        note(f"~ partial: {', '.join(_missing(row) for row in partial[:MOST_EXPLAINED])}")
        note("figures are of what is known; --json has covered_seconds and lost_seconds of each")


def _missing(row: CostRow) -> str:
    if row.lost_seconds:
        return f"{row.key} was off or not heard for {max(1.0, row.lost_seconds):,.0f} s"
    if row.covered_seconds is None:
        return f"{row.key} has failed requests whose cost is not known"
    if row.completion_tokens is None:
        return f"{row.key}'s agent does not count tokens"
    return f"{row.key} was started anew, or a clock was set"


def _row(row: CostRow, by: By) -> list[str]:
    return [
        row.key[:_ID_CHARACTERS] if by == "request" else row.key,
        str(row.requests),
        NONE if row.completion_tokens is None else str(row.completion_tokens),
        figure(row.busy_seconds),
        figure(row.modelled_busy_seconds),
        figure(row.busy_joules),
        figure(row.idle_joules),
        figure(row.joules_per_token),
        (f"{row.source}, hollow" if row.hollow else row.source) + (PARTIAL if row.partial else ""),
    ]
