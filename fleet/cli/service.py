"""Commands that make the agent or the coordinator a service of this machine: install, uninstall."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from fleet.cli import device as device_commands
from fleet.cli.options import HomeOption
from fleet.cli.output import note, say
from fleet.cli.units import BACK_OFF_SINCE, Service, Unit
from fleet.home import Home, write_private
from protos import disks
from protos.enrolment import TOKEN_VARIABLE, parse_token
from protos.errors import Denied, InvalidInput, Unavailable

app = typer.Typer(name="service", rich_markup_mode="rich")

SYSTEM_UNITS, SECRETS, STATE = Path("/etc/systemd/system"), Path("/etc/glmfleet"), Path("/var/lib")
RUNNING = Path("/run/systemd/system")  # is there while systemd runs this machine
HIDDEN = ("/home", "/root", "/run/user")  # from services, by ProtectHome

ServiceArgument = Annotated[Service, typer.Argument(metavar="device|serve", help="The agent, or the coordinator.", show_default=False)]
UserOption = Annotated[bool, typer.Option("--user", help="A service of this user, not of the machine: without root, and less confined.")]


@app.callback()
def _group() -> None:
    """The agent or the coordinator as a service of systemd: install, uninstall."""


@app.command(context_settings={"allow_extra_args": True})
def install(
    context: typer.Context,
    service: ServiceArgument,
    user: UserOption = False,
    token: Annotated[
        str | None,
        typer.Option("--token", envvar=TOKEN_VARIABLE, help="For device: of `glmfleet devices token`.", show_default=False),
    ] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Show the unit and change nothing.")] = False,
    home: HomeOption = None,
) -> None:
    """Write a unit that runs it, confined, from now on and at every start of the machine. What follows -- is for `device run` or `serve`.

    Example: glmfleet service install device -- --name gate-7 --memory 2GiB
    """
    options = tuple(context.args)
    _check_options(service, options)
    if token is not None:
        if service != "device":
            raise InvalidInput("a token is for a board: service install device --token ...")
        parse_token(token)
    unit = _unit(service, options, user, home, with_token=token is not None)
    if only_print:
        say(unit.text().rstrip("\n"))
        return
    _check_systemd(user)
    if not user:
        _check_reach(unit)
    if token is not None:
        with disks.told(Path(unit.secrets)):
            Path(unit.secrets).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(Path(unit.secrets), f"{TOKEN_VARIABLE}={token}\n".encode())
    if service == "serve" and not user:
        _ensure_user(unit)
    path = _units(user) / unit.file_name
    with disks.told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unit.text(), encoding="utf-8")
    _systemctl(user, "daemon-reload")
    _systemctl(user, "enable", unit.file_name)
    _systemctl(user, "restart", unit.file_name)
    note(f"{unit.name} runs by {path}, with its state in {unit.home}")
    if service == "serve":
        before = "" if user else f"sudo -u {unit.name} "
        note(f"commands for it: {before}glmfleet --home {unit.home} devices")
    note(f"what it says: journalctl {'--user ' if user else ''}-fu {unit.name}")


@app.command()
def uninstall(service: ServiceArgument, user: UserOption = False) -> None:
    """Stop it and remove its unit. Its state stays: keys, models, database.

    Example: glmfleet service uninstall device
    """
    path = _units(user) / f"glmfleet-{service}.service"
    if not path.exists():
        note(f"{path} is not there: nothing to remove")
        return
    _check_systemd(user)
    _systemctl(user, "disable", "--now", path.name)
    with disks.told(path):
        path.unlink()
        _secrets(service, user).unlink(missing_ok=True)
    _systemctl(user, "daemon-reload")
    note(f"removed {path}; its state stays in {STATE / f'glmfleet-{service}' if not user else Home.at().path}")


def _unit(service: Service, options: tuple[str, ...], user: bool, home: Path | None, *, with_token: bool) -> Unit:
    where = Home.at(home).path if user else STATE / f"glmfleet-{service}"
    if home is not None and not user:
        raise InvalidInput(f"a service of the machine keeps its state in {where}", advice="leave --home out, or add --user")
    secrets = str(_secrets(service, user)) if with_token else ""
    return Unit(service, sys.executable, str(where), options, user, _version(), secrets)


def _secrets(service: Service, user: bool) -> Path:
    return (_units(user) if user else SECRETS) / f"glmfleet-{service}.env"


def _check_options(service: Service, options: tuple[str, ...]) -> None:
    """Raises click's UsageError for what the command would not take, now and not in the journal."""
    if service == "serve":
        alone = typer.Typer()
        alone.command("serve")(importlib.import_module("fleet.cli.serve").serve)  # a board has not what it needs
        command, words = typer.main.get_command(alone), options
    else:
        command, words = typer.main.get_command(device_commands.app), ("run", *options)
    context = command.make_context("glmfleet", list(words))
    if service == "device":
        name, below, rest = command.resolve_command(context, [*context._protected_args, *context.args])  # type: ignore[attr-defined]
        below.make_context(name, rest, parent=context)


def _check_systemd(user: bool) -> None:
    if not RUNNING.is_dir() or shutil.which("systemctl") is None:
        raise Unavailable(
            "systemd does not run this machine", advice="--print shows the unit; run the command that it names by other means"
        )
    if not user and os.geteuid() != 0:
        raise Denied("a service of the machine is installed by root", advice="call it with sudo, or with --user for a service of your own")


def _check_reach(unit: Unit) -> None:
    """Raises InvalidInput when the service could not read its own program."""
    for path in (Path(unit.python), Path(unit.python).resolve(), Path(__file__)):
        if any(path.is_relative_to(folder) for folder in HIDDEN):
            raise InvalidInput(
                f"glmfleet lies in {path}, in a home folder, which services do not see",
                advice="install it for the machine: sudo PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install 'glmfleet[device]'; "
                "or add --user",
            )


def _ensure_user(unit: Unit) -> None:
    """The coordinator's. Raises Unavailable."""
    if _runs(["id", "-u", unit.name]):
        return
    command = ["useradd", "--system", "--user-group", "--home-dir", unit.home, "--shell", "/usr/sbin/nologin", unit.name]
    if not _runs(command):
        raise Unavailable(f"the user {unit.name} cannot be made", advice=" ".join(command))


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _units(user: bool) -> Path:
    if not user:
        return SYSTEM_UNITS
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def _version() -> int:
    """Of systemd; that with back-off where there is none to ask."""
    try:
        said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=False).stdout  # nosec B607: the one of root's path
    except OSError:
        return BACK_OFF_SINCE
    match = re.match(r"systemd (\d+)", said)
    return int(match[1]) if match else BACK_OFF_SINCE


def _systemctl(user: bool, *words: str) -> None:
    """Raises Unavailable with its last word."""
    command = ["systemctl", *(["--user"] if user else []), *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise Unavailable(f"{' '.join(command)}: {lines[-1]}", advice=f"see: systemctl {'--user ' if user else ''}status {words[-1]}")
