"""The entry point: which command lives in which module, and how an error becomes two lines and an exit code."""

from __future__ import annotations

import copy
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.cli import streams
from fleet.cli.output import note, say
from fleet.text import is_text
from protos.errors import FleetError

DEBUG = "GLMFLEET_DEBUG"
OURS = {"protos", "quantize", "device", "sim_devices", "fleet"}
OF_EXTRAS = {"arro3": "parquet", "opentelemetry": "otlp", "mlperf_loadgen": "loadgen"}  # what only some want, and the extra that brings it
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

# typer carries its own click and exports only leaves of click's tree: the parent is the class of every mistake on a command line.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


@dataclass(frozen=True)
class Command:
    """A command and its module. The module is imported when the command is called, so that `--help` stays quick."""

    name: str
    module: str
    attribute: str  # a function, or a Typer with commands below it
    summary: str
    below: tuple[Command, ...] = ()  # further commands of that Typer, which need more than its others


ENTRIES = (
    Command("demo", "fleet.cli.demo", "demo", "The whole thing in a minute, from nothing: three devices, one model, an answer, its cost."),
    Command("model", "fleet.cli.model", "app", "Models: pull, import, list, show, eval, rm."),
    Command(
        "sim",
        "fleet.cli.sim",
        "app",
        "A local fleet of simulated devices: up, down, status, profiles, gallery, faults, predict, explain, chaos.",
        (
            Command("predict", "fleet.cli.predict", "predict", "What a model would give on these devices, without running it."),
            Command("explain", "fleet.cli.explain", "explain", "Why a chip is as fast as it is, a mechanism after another."),
            Command("chaos", "fleet.cli.chaos", "chaos", "Trouble a fleet under load, and compare every token."),
        ),
    ),
    Command("compile", "fleet.cli.compiling", "compile_model", "Compile a model for a chip: program, cycles, utilisation, joules."),
    Command("device", "fleet.cli.device", "app", "The agent on a real board: run, join, leave."),
    Command("service", "fleet.cli.service", "app", "The agent or the coordinator as a service of systemd: install, uninstall."),
    Command("serve", "fleet.cli.serve", "serve", "Run the coordinator: HTTP API, discovery, deployments."),
    Command("devices", "fleet.cli.enrolment", "app", "List the fleet's devices, and take in others: accept, reject, token."),
    Command("keys", "fleet.cli.keys", "app", "Keys of the API, each with a role: create, list, revoke."),
    Command("audit", "fleet.cli.audit", "app", "Who changed what: show, verify."),
    Command("login", "fleet.cli.login", "login", "Use a coordinator on another machine."),
    Command("logout", "fleet.cli.login", "logout", "Forget the coordinator that this home is logged in at."),
    Command("doctor", "fleet.cli.doctor", "doctor", "Check this installation and say why a device is missing."),
    Command("plan", "fleet.cli.deploy", "plan", "Show how a model would be spread over the devices, and why."),
    Command("deploy", "fleet.cli.deploy", "deploy", "Push a model to the devices and make it ready."),
    Command("undeploy", "fleet.cli.deploy", "undeploy", "Unload a deployment from its devices."),
    Command("deployments", "fleet.cli.deploy", "deployments", "List deployments."),
    Command("generate", "fleet.cli.generate", "generate", "One prompt, one answer, streamed."),
    Command("chat", "fleet.cli.chat", "chat", "Talk with the deployed model."),
    Command("requests", "fleet.cli.requests", "requests", "List the requests on their way and the last that have ended, or cancel one."),
    Command("telemetry", "fleet.cli.telemetry", "telemetry", "What it cost: seconds (wall and modelled) and joules, each with its source."),
    Command("top", "fleet.cli.top", "top", "The fleet as it is, each second: devices, pipelines, watts, heat, tokens a second, requests."),
    Command("logs", "fleet.cli.logs", "logs", "The last lines of the log of a device, or of the coordinator."),
    Command(
        "bench",
        "fleet.cli.bench",
        "app",
        "Measurements: speed and quality of this machine (in a checkout of the source), and serve: any OpenAI endpoint.",
        (
            Command(
                "serve",
                "fleet.cli.bench_serve",
                "serve",
                "Measure any OpenAI endpoint by MLPerf's scenarios.",
            ),
        ),
    ),
)


def run() -> None:
    """What the script `glmfleet` calls."""
    streams.prepare()
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code: 0 done, 1 failed, 2 usage, 130 interrupted.

    Never a traceback for a user's mistake, unless GLMFLEET_DEBUG is set.
    """
    try:
        _check_text(arguments)
        command = typer.main.get_command(compose(arguments))
        _name_no_type_of_flags(command)
        code = command.main(list(arguments) or ["--help"], prog_name="glmfleet", standalone_mode=False)
        sys.stdout.flush()
    except FleetError as error:
        return _failed(error, error.detail, error.advice or "", EXIT_FAILED)
    except UsageError as error:
        return _failed(error, *_usage(error), EXIT_USAGE)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in OURS:
            return _defect(error)
        detail = f"this command needs {error.name}, which is not installed"
        return _failed(error, detail, f"install glmfleet with its parts: pipx install --force '{_parts(arguments, missing)}'", EXIT_FAILED)
    except BrokenPipeError:
        streams.silence(sys.stdout)  # the reader left (`| head`): nothing to say
        return EXIT_FAILED
    except Exception as error:
        return _defect(error)
    if code == EXIT_INTERRUPTED:
        note("\ninterrupted")
    return code if isinstance(code, int) else 0


def compose(arguments: Sequence[str]) -> typer.Typer:
    """The application, with the modules of the commands that these arguments name; the others are there by name and summary only."""
    app = typer.Typer(
        name="glmfleet", callback=_root, help=_ROOT_HELP, rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=True
    )
    completing = any(name.endswith("_COMPLETE") for name in os.environ)
    _add(app, ENTRIES, None if completing else arguments)
    return app


def _add(app: typer.Typer, entries: Sequence[Command], arguments: Sequence[str] | None) -> None:
    """None: all are loaded."""
    for entry in entries:
        if arguments is not None and entry.name not in arguments:
            app.command(entry.name, help=entry.summary)(_not_loaded)
            continue
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        if isinstance(command, typer.Typer):
            group = copy.copy(command)  # the module's own stays as it is
            group.registered_commands = list(command.registered_commands)
            _add(group, entry.below, arguments)
            app.add_typer(group, name=entry.name, help=entry.summary)
        else:
            app.command(entry.name)(command)


_ROOT_HELP = """Run a small GLM language model on a fleet of edge devices.

\b
New here:   glmfleet demo
Step by step:
  glmfleet model pull smollm2-135m      a model, quantized to int8
  glmfleet sim up --devices 3           three simulated devices
  glmfleet serve                        the coordinator (in another terminal)
  glmfleet deploy smollm2-135m          spread it over the devices
  glmfleet chat                         talk to it
"""


def _version(asked: bool) -> None:
    if asked:
        say(f"glmfleet {metadata.version('glmfleet')}")
        raise typer.Exit


def _root(
    home: Annotated[
        Path | None, typer.Option("--home", help="State folder (default: GLMFLEET_HOME, else the user's data folder).", show_default=False)
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version)] = False,
) -> None:
    """Read by `fleet.cli.options.HomeOption`, so that --home may stand before the command as well as after it."""


def _check_text(arguments: Sequence[str]) -> None:
    """Raises typer.BadParameter. All that we send and store is UTF-8; a path of other bytes could be opened, but not be told."""
    for argument in arguments:
        if not is_text(argument):
            ways = "write it so, or rename the file" if os.path.lexists(argument) else "write it so"
            raise typer.BadParameter(f"{argument!a} is not text in {sys.getfilesystemencoding()}: {ways}")


def _terminated(number: int, _frame: object) -> None:
    """SIGTERM ends a command as Ctrl-C does, through every `finally`: child processes and temporary files go with it."""
    raise SystemExit(128 + number)


def _name_no_type_of_flags(command: Any) -> None:
    """In the help typer shows "--json <bool>", as if a value had to follow."""
    for parameter in command.params:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for below in getattr(command, "commands", {}).values():
        _name_no_type_of_flags(below)


def _not_loaded() -> None:
    raise AssertionError("a command was called that its arguments do not name")


def _parts(arguments: Sequence[str], missing: str) -> str:
    """What to install for this command: a board needs the agent alone."""
    if missing in OF_EXTRAS:
        return f"glmfleet[coordinator,device,text,sim,{OF_EXTRAS[missing]}]"
    return "glmfleet[device]" if "device" in arguments else "glmfleet[coordinator,device,text,sim]"


def _defect(error: Exception) -> int:
    detail = importlib.import_module("protos.rpc_errors").as_fleet_error(error).detail  # with gRPC, which `--help` does without
    return _failed(error, f"a defect of glmfleet: {detail}", f"{DEBUG}=1 shows where; please report it", EXIT_FAILED)


def _usage(error: Exception) -> tuple[str, str]:
    context = getattr(error, "ctx", None)
    format_message = getattr(error, "format_message", None)
    detail = format_message() if callable(format_message) else str(error)
    for noise in ("Invalid value: ", "Value error, "):  # typer's and pydantic's, before words that say it all
        detail = detail.replace(noise, "")
    return " ".join(detail.split()), f"see: {context.command_path if context else 'glmfleet'} --help"


def _failed(error: Exception, detail: str, advice: str, code: int) -> int:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    note(f"error: {detail}")
    if advice:
        note(f"  {advice}")
    return code
