"""The command for what it cost, and how it went."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any, Literal

import typer

from fleet.api.encode import plain
from fleet.cli.client import connect
from fleet.cli.devices import FEW
from fleet.cli.history import history_rows, print_csv, print_history
from fleet.cli.options import HomeOption, JsonOption, open_home, parse_duration
from fleet.cli.output import NONE, count_text, figure, note, print_json
from fleet.cli.percentiles import parse_percentiles, percentile_rows, print_percentiles
from fleet.cli.tables import Column, print_table
from fleet.deploying.balancing import not_deployed
from fleet.telemetry.views import CostRow

TelemetryForm = Literal["table", "json", "csv", "parquet"]
By = Literal["device", "model", "deployment", "request"]

# Of a request's id: enough to tell them apart in a list; --json has it whole.
_ID_CHARACTERS = 12
MOST_EXPLAINED = 3
PARTIAL = " ~"  # a word would not fit in a terminal's 80 columns


def telemetry(
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="How far back: 90s, 10m, 2h, 1d.")] = "10m",
    by: Annotated[By | None, typer.Option("--by", help="One line for each (default: device; of percentiles deployment).")] = None,
    history: Annotated[
        bool, typer.Option("--history", help="How it went instead: watts, tokens a second, joules a token, heat over the time.")
    ] = False,
    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="The history of this one alone (its name or id).", show_default=False)
    ] = None,
    percentile: Annotated[
        str | None,
        typer.Option(
            "--percentile",
            metavar="P,P",
            help="Of requests: time in the queue, to the first token, a token, in all, and joules a token, such as 50,90,99.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[TelemetryForm, typer.Option("--format", help="How to print it; parquet into a file or a pipe.")] = "table",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """What it cost: seconds (wall and modelled) and joules, each with its source. What is not known of a device is said.

    Example: glmfleet telemetry --since 10m --by device --json
    """
    seconds, form = parse_duration(since), "json" if as_json else form
    wanted = None if percentile is None else parse_percentiles(percentile)
    if wanted is not None and (device is not None or by in ("device", "request")):
        raise typer.BadParameter("percentiles are of the requests of a model or deployment: --by model or deployment")
    with connect(open_home(home)) as coordinator:
        if wanted is not None:
            grouped = by or "deployment"
            found = coordinator.percentiles(seconds, grouped, wanted)
            table = partial(print_percentiles, found, by=grouped, over_time=history)
            _print(found, percentile_rows(found, over_time=history), form, table)
            return
        if history or device is not None:
            past = coordinator.history(seconds, device)
            _print(past, history_rows(past), form, partial(print_history, past))
            return
        rows = coordinator.telemetry(seconds, by or "device")
        if not rows and form == "table":
            asking = 'ask something: glmfleet generate "What is the capital of France?"'
            models = [] if (deployed := bool(coordinator.deployments())) else [each.name for each in coordinator.models()]
            note(f"nothing in the last {since}; {asking if deployed else not_deployed(None, (), models).advice}")
            return
    _print(rows, map(plain, rows), form, partial(print_costs, rows, by or "device"))


def _print(found: object, rows: Iterable[dict[str, Any]], form: TelemetryForm, table: Callable[[], None]) -> None:
    """`rows`: what `found` has, for programs that read lines."""
    if form == "json":
        print_json(found)
    elif form == "csv":
        print_csv(rows)
    elif form == "parquet":
        from fleet.cli.parquet import print_parquet  # of an extra

        print_parquet(rows)
    else:
        table()


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
