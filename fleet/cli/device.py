"""The command that runs the agent on a real board."""

from __future__ import annotations

import os
import socket
import sys
from typing import Annotated

import typer

from fleet.cli.options import HomeOption, InsecureOption, InterfaceOption, open_home, parse_size
from fleet.home import Home
from fleet.trust.authority import Authority
from protos.errors import InvalidInput

app = typer.Typer(name="device", rich_markup_mode="rich")

MemoryOption = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="What models may take, for example 2GiB.", show_default=False)
]


@app.callback()
def _group() -> None:
    """The agent on a real board: run."""


@app.command()
def run(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="gRPC port; 0: any free one.")] = 7420,
    name: Annotated[
        str | None, typer.Option("--name", help="What people call this device (default: the host name).", show_default=False)
    ] = None,
    interface: InterfaceOption = None,
    memory: MemoryOption = None,
    insecure: InsecureOption = False,
    home: HomeOption = None,
) -> None:
    """Run the agent on this machine, as a real device of the fleet of this home. Ctrl-C ends it.

    Example: glmfleet device run --name gate-7 --memory 2GiB
    """
    opened = open_home(home)
    chosen = name or socket.gethostname()
    arguments = ["--state", str(opened.device), "--name", chosen, "--port", str(port)]
    for address in interface or ():
        arguments += ["--interface", address]
    if memory is not None:
        arguments += ["--memory", str(parse_size(memory))]
    if insecure:
        arguments += ["--insecure", "--host", "127.0.0.1"]
    else:
        _ensure_identity(opened, chosen)
    # In this process's place: signals, exit code and terminal are the agent's own.
    os.execv(sys.executable, [sys.executable, "-m", "device", *arguments])


def _ensure_identity(home: Home, name: str) -> None:
    """From the fleet's authority when that is on this machine; else the one that is here already. Raises InvalidInput without either."""
    if (home.authority / "key.pem").exists():
        Authority.open(home.authority).issue_folder(home.device, "device", name)
    elif not (home.device / "certificate.pem").exists():
        raise InvalidInput(
            f"no fleet authority in this home ({home.path}), so this device has no identity",
            advice="run it on the coordinator's machine, after glmfleet serve; enrolling a remote device does not exist yet",
        )
