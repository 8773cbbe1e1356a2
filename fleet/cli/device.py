"""The command that runs the agent on a real board."""

from __future__ import annotations

import os
import socket
import sys
from typing import Annotated, NoReturn

import typer

from device.agent.identity import is_member
from device.agent.joining import join as join_fleet
from device.agent.membership import leave as leave_fleet
from device.agent.only import only_agent
from fleet.cli.options import DEFAULT_PORT, HomeOption, InsecureOption, InterfaceOption, open_home, parse_size
from fleet.cli.output import note
from fleet.home import Home
from fleet.trust.authority import Authority
from protos.enrolment import TOKEN_VARIABLE, parse_token, words
from protos.errors import InvalidInput
from protos.net.addresses import address_of

app = typer.Typer(name="device", rich_markup_mode="rich")


MemoryOption = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="What models may take, for example 2GiB.", show_default=False)
]


PowerOption = Annotated[
    str | None,
    typer.Option(
        "--power-command",
        metavar="CMD",
        help="A program that prints watts, a line each (default: the board's own meter).",
        show_default=False,
    ),
]


@app.callback()
def _group() -> None:
    """The agent on a real board: run, join, leave."""


@app.command()
def run(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="gRPC port; 0: any free one.")] = 7420,
    name: Annotated[
        str | None, typer.Option("--name", help="What people call this device (default: the host name).", show_default=False)
    ] = None,
    interface: InterfaceOption = None,
    memory: MemoryOption = None,
    power: PowerOption = None,
    token: Annotated[
        str | None,
        typer.Option("--token", envvar=TOKEN_VARIABLE, help="Of `glmfleet devices token`: joins without a hand.", show_default=False),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            "--coordinator",
            metavar="HOST[:PORT]",
            help="Dial this one, since nobody can dial this board (`glmfleet serve --host ... --relay-port ...` there).",
            show_default=False,
        ),
    ] = None,
    insecure: InsecureOption = False,
    home: HomeOption = None,
) -> None:
    """Run the agent on this machine, as a real device. Ctrl-C ends it.

    A board that belongs to no fleet yet shows itself and waits until one takes it in: `glmfleet devices accept` where the coordinator runs.

    Example: glmfleet device run --name gate-7 --memory 2GiB
    """
    opened = open_home(home)
    chosen = name or socket.gethostname()
    if coordinator is not None:
        if insecure:
            raise InvalidInput("a board that dials out needs TLS", advice="leave --insecure out")
        where = address_of(coordinator, DEFAULT_PORT)
        _join_by_calling(opened, where, token, chosen, port or 7420)
        _become_agent(opened, chosen, port, interface, memory, power, None, coordinator=where)
    if not insecure:
        _ensure_identity(opened, chosen, token)
    _become_agent(opened, chosen, port, interface, memory, power, token, insecure=insecure)


@app.command()
def join(
    where: Annotated[str, typer.Argument(metavar="HOST[:PORT]", help="Where the coordinator answers (`glmfleet serve --host ...`).")],
    token: Annotated[str, typer.Option("--token", envvar=TOKEN_VARIABLE, help="Of `glmfleet devices token`.", show_default=False)],
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="gRPC port, at which the coordinator dials.")] = 7420,
    name: Annotated[
        str | None, typer.Option("--name", help="What people call this device (default: the host name).", show_default=False)
    ] = None,
    interface: InterfaceOption = None,
    memory: MemoryOption = None,
    power: PowerOption = None,
    home: HomeOption = None,
) -> None:
    """Join a fleet whose coordinator mDNS does not reach, then run the agent. Once joined, it only runs.

    Example: glmfleet device join desk.example --token glmfleet-...
    """
    opened = open_home(home)
    chosen = name or socket.gethostname()
    if _join_by_calling(opened, address_of(where, DEFAULT_PORT), token, chosen, port):
        note(f"the coordinator dials its port {port}")
    _become_agent(opened, chosen, port, interface, memory, power, None)


def _become_agent(
    opened: Home,
    chosen: str,
    port: int,
    interface: list[str] | None,
    memory: str | None,
    power: str | None,
    token: str | None,
    *,
    insecure: bool = False,
    coordinator: str = "",
) -> NoReturn:
    """In this process's place: signals, exit code and terminal are the agent's own."""
    arguments = ["--state", str(opened.device), "--name", chosen, "--port", str(port)]
    for address in interface or ():
        arguments += ["--interface", address]
    if memory is not None:
        arguments += ["--memory", str(parse_size(memory))]
    if power is not None:
        arguments += ["--power-command", power]
    if coordinator:
        arguments += ["--coordinator", coordinator]
    if insecure:
        arguments += ["--insecure", "--host", "127.0.0.1"]
    environment = {**os.environ, TOKEN_VARIABLE: token or ""}
    # In this process's place: signals, exit code and terminal are the agent's own. -P: nothing is imported from the folder we stand in.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "device", *arguments], environment)  # nosec B606 # no shell is the point


@app.command()
def leave(
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove its key and every model, too.")] = False,
    home: HomeOption = None,
) -> None:
    """Take this board out of its fleet; its agent must have ended. Started again, it asks to join one.

    Example: glmfleet device leave --wipe
    """
    opened = open_home(home)
    if (opened.authority / "key.pem").exists():
        raise InvalidInput(
            f"the authority of this fleet lies in this home ({opened.path})", advice="what leaves is a board, not the authority"
        )
    if not opened.device.exists():
        note("it belonged to no fleet")
        return
    with only_agent(opened.device):
        left = leave_fleet(opened.device, wipe=wipe)
    note("it belongs to no fleet any more" if left else "it belonged to no fleet")


def _join_by_calling(home: Home, where: str, token: str | None, name: str, port: int) -> bool:
    """Whether it has joined now: one that belongs to a fleet already does not. Raises FleetError, InvalidInput without a token."""
    parsed = None if token is None else parse_token(token)
    with only_agent(home.device):
        if is_member(home.device):
            if token is not None:
                note("this board belongs to a fleet already: its token is not looked at (to take it out: glmfleet device leave)")
            return False
        if parsed is None:
            raise InvalidInput(
                "this board belongs to no fleet yet, and nobody can dial it", advice="join by --token: glmfleet devices token"
            )
        identity = join_fleet(home.device, where, parsed, name, port)
    note(f"{name} ({words(identity.device_id)}) is of the fleet {identity.fleet_id}")
    return True


def _ensure_identity(home: Home, name: str, token: str | None) -> None:
    """From the fleet's authority when that is on this machine; else the one that is here already; else a fleet is to take it in.

    Raises InvalidInput for a token that is none. That of a board which belongs to a fleet is passed over: it is started with it again and
    again.
    """
    if token is not None:
        parse_token(token)
    here = (home.authority / "key.pem").exists()
    if token is not None and (here or (home.device / "certificate.pem").exists()):
        note("this board belongs to a fleet already: its token is not looked at (to take it out: glmfleet device leave)")
    if here:
        Authority.open(home.authority).issue_folder(home.device, "device", name)
