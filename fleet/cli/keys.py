"""Commands below `keys`: who may use the API."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.access import KeyView, NewKey
from fleet.cli.client import connect
from fleet.cli.options import HomeOption, JsonOption, open_home, parse_duration
from fleet.cli.output import note, print_json, say, time_text
from fleet.cli.tables import Column, print_table
from fleet.home import Home
from fleet.principal import ROLES
from fleet.trust.login import LoginCode, public_der, read_login
from protos.enrolment import authority_hash
from protos.errors import InvalidInput

app = typer.Typer(name="keys", rich_markup_mode="rich", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keys of the API: create, list, revoke."""


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, for the lists and the audit log.")],
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="viewer, user, operator or admin.")] = "viewer",
    life: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long it is good, or `never` for no end.")] = "90d",
    requests: Annotated[
        int | None, typer.Option("--requests-per-minute", min=1, help="Budget of requests (default: none).", show_default=False)
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens-per-day", min=1, help="Budget of tokens, prompts included (default: none).", show_default=False)
    ] = None,
    login: Annotated[bool, typer.Option("--login", help="Print a code for `glmfleet login`, in the place of the key.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make a key. It is shown once.

    Example: glmfleet keys create dashboard --role viewer --for 30d
    """
    if role not in ROLES:
        raise typer.BadParameter(f"no role {role!r}; one of {', '.join(ROLES)}")
    opened = open_home(home)
    reach, authority = _reach(opened) if login else ((), "")
    seconds = None if life == "never" else parse_duration(life)
    with connect(opened) as coordinator:
        made = coordinator.new_key(NewKey(name, role, seconds, requests, tokens))
    if as_json:
        print_json(made)
        return
    until = "until it is revoked" if made.expires is None else f"until {_when(made.expires)}"
    if login:
        say(LoginCode(reach, authority_hash(public_der(authority)), made.key).text)
        note(f"key {made.key_id} of {made.name} ({made.role}), good {until}; on the other machine: glmfleet login CODE")
    else:
        say(made.key)
        note(f"key {made.key_id} of {made.name} ({made.role}), good {until}; it is not shown again")


@app.command("list")
def list_keys(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List the keys, the newest first.

    Example: glmfleet keys list
    """
    with connect(open_home(home)) as coordinator:
        found = coordinator.keys()
    if as_json:
        print_json(found)
    elif not found:
        note("no key was made: glmfleet keys create NAME")
    else:
        columns = [Column("id"), Column("name"), Column("role"), Column("state"), Column("budget"), Column("last used")]
        print_table(columns, [[one.key_id, one.name, one.role, _state(one), _budget(one), _when(one.last_used)] for one in found])


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its id or its name.")], as_json: JsonOption = False, home: HomeOption = None
) -> None:
    """End a key, and what is answered to its holder now.

    Example: glmfleet keys revoke dashboard
    """
    with connect(open_home(home)) as coordinator:
        view = coordinator.revoke_key(key)
    if as_json:
        print_json(view)
    else:
        note(f"key {view.key_id} of {view.name} is no good any more")


def _reach(home: Home) -> tuple[tuple[str, ...], str]:
    """Where the coordinator is found by other machines, and its authority (PEM). Raises InvalidInput when it is not."""
    if (login := read_login(home)) is not None:
        return (login.address,), login.authority
    running = home.running_coordinator()
    if running is not None and not running.reach:
        raise InvalidInput("this coordinator listens on loopback alone", advice="start it with: glmfleet serve --host 0.0.0.0")
    authority = home.authority / "certificate.pem"
    return (running.reach, authority.read_text()) if running is not None else ((), "")  # without one `connect` says so


def _state(one: KeyView) -> str:
    return f"good until {_when(one.expires)}" if one.state == "good" and one.expires is not None else one.state


def _budget(one: KeyView) -> str:
    parts = []
    if one.requests_per_minute is not None:
        parts.append(f"{one.requests_per_minute}/min")
    if one.tokens_per_day is not None:
        parts.append(f"{one.tokens_today} of {one.tokens_per_day} tokens")
    return ", ".join(parts) or "-"


def _when(seconds: float | None) -> str:
    return "-" if seconds is None else time_text(seconds)
