"""Commands below `devices`: taking boards into the fleet."""

from __future__ import annotations

import time
from collections import Counter
from typing import Annotated

import typer

from fleet.cli.client import CoordinatorClient, connect
from fleet.cli.device_show import show
from fleet.cli.devices import DeviceArgument, EverythingOption, LabelOption, list_devices
from fleet.cli.options import HomeOption, JsonOption, open_home, parse_duration
from fleet.cli.output import NONE, note, print_json, say, time_text
from fleet.cli.recovery import await_recovery
from fleet.cli.tables import Column, print_table
from fleet.devices.views import DeviceView
from fleet.enrolling.views import TokenView
from protos.enrolment import LONGEST_TOKEN_SECONDS
from protos.errors import NotFound
from protos.ids import DeviceId

DRAIN_POLL_SECONDS = 0.2

app = typer.Typer(name="devices", rich_markup_mode="rich")

BoardArgument = Annotated[str, typer.Argument(metavar="BOARD", help="Its name, its id, or its fingerprint's five words in quotes.")]

app.command()(show)


@app.callback(invoke_without_command=True)
def devices(
    context: typer.Context,
    everything: EverythingOption = False,
    label: LabelOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """List the fleet's devices, and the boards that ask to join.

    Example: glmfleet devices --label role=lamp
    """
    if context.invoked_subcommand is None:
        list_devices(everything, label, as_json, home)


@app.command()
def pending(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List the boards that ask to join the fleet.

    Example: glmfleet devices pending
    """
    with connect(open_home(home)) as coordinator:
        found = coordinator.enrolments()
    if as_json:
        print_json(found)
        return
    if not found:
        note("no board asks to join: run `glmfleet device run` on it")
        return
    # All of words that stay whole: a fingerprint is compared, and the rest copied.
    columns = [Column(title, "names") for title in ("name", "fingerprint", "accelerator", "address")]
    print_table(columns, [[one.name, one.fingerprint, one.profile, one.address] for one in found])
    for name, count in Counter(one.name for one in found).items():
        if count > 1:
            ids = ", ".join(one.device_id for one in found if one.name == name)
            note(f"{count} boards are called {name}; accept one by its fingerprint or its id: {ids}")
    for one in found:
        if one.detail:
            note(f"{one.name}: {one.detail}")
    note("compare the fingerprint with the board's own screen, then: glmfleet devices accept NAME")


@app.command()
def accept(board: BoardArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Take a board into the fleet.

    Example: glmfleet devices accept gate-7
    """
    with connect(open_home(home)) as coordinator:
        view = coordinator.accept(board)
    if as_json:
        print_json(view)
    else:
        note(f"{view.name} ({view.fingerprint}) at {view.address} is of the fleet; it is online in a moment")


@app.command()
def reject(board: BoardArgument, home: HomeOption = None) -> None:
    """Show a board that asks to join no more, until the coordinator starts anew.

    Example: glmfleet devices reject gate-7
    """
    with connect(open_home(home)) as coordinator:
        view = coordinator.reject(board)
    note(f"{view.name} ({view.fingerprint}) at {view.address} is not shown any more")
    note(f"to take it in after all: glmfleet devices accept {view.device_id}")


@app.command()
def remove(
    device: DeviceArgument,
    force: Annotated[bool, typer.Option("--force", help="Also while a deployment uses it.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Take a device out of the fleet, and its models and its key off it. What it held moves to others; Ctrl-C stops waiting for that.

    Example: glmfleet devices remove gate-7
    """
    with connect(open_home(home)) as coordinator:
        view = coordinator.decommission(device, force=force)
        if as_json:
            print_json(view)
            return
        note(f"{view.name} ({view.device_id}) is of the fleet no more")
        if view.wiped:
            note("it removes its models and its key; then it is a new board, which asks to join")
        else:
            note("it could not be reached: its models stay on it until `glmfleet device leave --wipe` there")
        await_recovery(coordinator, view.used_by)


@app.command()
def revoke(device: DeviceArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Take a device out of the fleet without asking it: stolen, lost, or its key copied.

    Example: glmfleet devices revoke gate-7
    """
    with connect(open_home(home)) as coordinator:
        view = coordinator.expel(device)
        if as_json:
            print_json(view)
            return
        note(f"{view.name} ({view.device_id}) is of the fleet no more, and its key opens nothing any more")
        await_recovery(coordinator, view.used_by)


@app.command()
def drain(device: DeviceArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Have all that a device holds move to others, and wait until it may be switched off. Ctrl-C stops waiting, not the drain.

    Example: glmfleet devices drain gate-7
    """
    with connect(open_home(home)) as coordinator:
        drained = coordinator.drain(device)
        view, told = _device(coordinator, drained), ""
        while view.drain == "draining":
            if view.drain_detail != told and not as_json:
                told = view.drain_detail
                note(f"{view.name}: {told}")
            time.sleep(DRAIN_POLL_SECONDS)
            view = _device(coordinator, drained)
    if as_json:
        print_json(view)
    elif view.drain == "drained":
        note(f"{view.name} is drained: it may be switched off")
    else:
        note(f"{view.name} is to be used again: somebody has undrained it")


@app.command()
def undrain(device: DeviceArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Use a device again that was drained, or is being drained.

    Example: glmfleet devices undrain gate-7
    """
    with connect(open_home(home)) as coordinator:
        view = _device(coordinator, coordinator.undrain(device))
    if as_json:
        print_json(view)
    else:
        note(f"{view.name} may be used again")


@app.command()
def token(
    life: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long it is good, up to 30d.")] = "1h",
    show: Annotated[bool, typer.Option("--list", help="Show those that were made.")] = False,
    revoke: Annotated[str | None, typer.Option("--revoke", metavar="ID", help="This one is no good any more.", show_default=False)] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make a token that lets one board in, once, without a hand.

    Example: glmfleet devices token --for 10m
    """
    life_seconds = parse_duration(life, LONGEST_TOKEN_SECONDS)
    with connect(open_home(home)) as coordinator:
        if revoke is not None:
            coordinator.revoke_token(revoke)
            note(f"token {revoke} is no good any more")
            return
        if show:
            _print_tokens(coordinator.tokens(), as_json)
            return
        made = coordinator.new_token(life_seconds)
    if as_json:
        print_json(made)
        return
    say(made.token)
    note(f"token {made.token_id}, good for one board until {time_text(made.expires)}; on the board: glmfleet device run --token TOKEN")
    note("  where mDNS does not reach, and the coordinator listens (serve --host): glmfleet device join HOST --token TOKEN")


def _device(coordinator: CoordinatorClient, device: DeviceId) -> DeviceView:
    """Raises NotFound."""
    found = next((one for one in coordinator.devices() if one.device_id == device), None)
    if found is None:
        raise NotFound(f"device {device} has left the fleet")
    return found


def _print_tokens(tokens: list[TokenView], as_json: bool) -> None:
    if as_json:
        print_json(tokens)
    elif not tokens:
        note("no token was made")
    else:
        columns = [Column("id", "names"), Column("good until"), Column("used by", "names")]
        print_table(columns, [[one.token_id, _state(one), one.used_by or NONE] for one in tokens])


def _state(one: TokenView) -> str:
    until = time_text(one.expires)
    return f"expired {until}" if one.expires <= time.time() and not one.used_by else until
