"""Commands below `audit`: who changed what."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fleet.access import AuditEntry
from fleet.cli.client import connect
from fleet.cli.options import HomeOption, JsonOption, open_home, parse_duration
from fleet.cli.output import note, print_json, say, time_text
from protos.errors import Corrupt

app = typer.Typer(name="audit", rich_markup_mode="rich", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The audit log: show, verify."""


@app.command()
def show(
    since: Annotated[str, typer.Option("--since", metavar="DURATION", help="How far back.")] = "1d",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show who changed what, oldest first.

    Example: glmfleet audit show --since 2h
    """
    with connect(open_home(home)) as coordinator:
        entries = coordinator.audit(parse_duration(since))
    if as_json:
        print_json(entries)
        return
    ended = {one.of for one in entries}
    begun = {one.sequence: one for one in entries}
    shown = [one for one in entries if one.outcome != "begun" or one.sequence not in ended]
    if not shown:
        note(f"nothing was changed in the last {since}")
        return
    for one in shown:
        for line in _lines(one, begun.get(one.of or 0, one)):
            say("".join(character if character.isprintable() else "?" for character in line))  # names are others' words


@app.command()
def verify(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Check that no line was changed, moved or removed. The exit code is 1 when one was.

    Example: glmfleet audit verify
    """
    with connect(open_home(home)) as coordinator:
        verdict = coordinator.verify_audit()
    if as_json:
        print_json(verdict)
    if verdict.problem:
        raise Corrupt(f"the audit log is not as it was written: {verdict.problem}", advice="keep a copy, and find out who can write there")
    if not as_json:
        note(f"{verdict.lines} lines, each as it was written")
        if verdict.restarts:
            note(f"it went on without its head (another database?) at line {', '.join(map(str, verdict.restarts))}")


def _lines(one: AuditEntry, begun: AuditEntry) -> list[str]:
    """ "     7  2026-11-29 23:45:18 CET  ann (admin)  undeploy name=tiny: done", and below it the states before and after."""
    arguments = " ".join(f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in begun.arguments.items())
    outcome = {"begun": "how it ended is not known"}.get(one.outcome, one.outcome) + (f" ({one.detail})" if one.detail else "")
    when = time_text(one.time, of_day="%H:%M:%S")
    lines = [f"{one.sequence:6}  {when}  {one.who} ({one.role})  {' '.join(filter(None, (one.call, arguments)))}: {outcome}"]
    if one.before or one.after:
        lines.append(f"{'':8}{one.before or 'nothing'} -> {one.after or 'nothing'}")
    return lines
