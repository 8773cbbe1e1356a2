"""The command that shows everything in a minute, from nothing, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.cli.answers import stream_answer
from fleet.cli.client import CoordinatorClient, connect
from fleet.cli.costs import combined, print_devices_cost, summary
from fleet.cli.deploy import follow, print_plan
from fleet.cli.devices import explain_none, print_devices
from fleet.cli.model import pull_model
from fleet.cli.options import HomeOption, open_home
from fleet.cli.output import count_text, figure, say
from fleet.cli.signals import Signals
from fleet.cli.sim import device_specs
from fleet.cli.sim_fleet import local_fleet
from fleet.devices.views import DeviceView
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from fleet.service.models import model_view
from protos.errors import TimedOut, Unavailable
from protos.sizes import bytes_text
from quantize.artifact.store import ArtifactStore
from quantize.hub.catalog import DEFAULT_MODEL

FIRST_PROMPT = "What is the capital of France?"
CONTEXT = 1024
MAX_TOKENS = 128
START_SECONDS = 30.0
DISCOVERY_SECONDS = 20.0
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05


def demo(
    prompt: Annotated[str, typer.Option("--prompt", help="What to ask after the capital of France.")] = "Name three colours.",
    devices: Annotated[int, typer.Option("--devices", min=1, max=8, help="How many simulated devices.")] = 3,
    home: HomeOption = None,
) -> None:
    """The whole thing in a minute, from nothing: three devices, one model, an answer, its cost. Leaves nothing running.

    Example: glmfleet demo --prompt "Name three colours."
    """
    began = time.monotonic()
    kept = open_home(home)
    # Two closes: should a signal break into the first before `ignore` is reached, the second does the work; closing twice is harmless.
    with Signals() as signals:
        stack = ExitStack()
        try:
            try:
                _show(stack, signals, kept, prompt, devices)
            finally:
                signals.ignore()
                stack.close()
        finally:
            stack.close()
    command = _command()
    _section("Yours now")
    say(f"Everything is stopped again, after {time.monotonic() - began:.0f} s; only the model was kept. Go on with:")
    say(f"  {command} sim up --devices 3 && {command} serve")
    say(f"  {command} deploy {DEFAULT_MODEL}      (in another terminal)")
    say(f"  {command} chat")


def _show(stack: ExitStack, signals: Signals, kept: Home, prompt: str, devices: int) -> None:
    _section("A model")
    _ensure_model(kept)
    home = _temporary_home(stack, signals, kept)

    _section(f"{count_text(devices, 'simulated device')}, each a process of its own")
    _start_coordinator(stack, signals, home)
    fleet = local_fleet(home)
    stack.callback(fleet.down)
    with signals.held():
        started = {device.device_id for device in fleet.up(device_specs((), devices, "fast", None))}
    coordinator = stack.enter_context(connect(home))
    waited = time.monotonic()
    found = _wait_for_devices(coordinator, started)
    print_devices(found)
    say(f"found by mDNS on 127.0.0.1, {time.monotonic() - waited:.1f} s after they were ready; every link is mutual TLS")

    _section("The plan, and the model on its way")
    events = coordinator.deploy(PlanRequest(DEFAULT_MODEL, objective="throughput", stages=devices, context=CONTEXT), None)
    stack.callback(events.close)
    follow(events, on_plan=print_plan)

    results = []
    for question in (FIRST_PROMPT, prompt):
        _section(question)
        results.append(_ask(coordinator, question))

    _section("What it cost")
    print_devices_cost(combined(results))
    say("wall: seconds of this machine; modelled: seconds and joules of the real accelerators (glmfleet sim profiles)")


def _section(title: str) -> None:
    bold, plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")
    say(f"\n{bold}== {title}{plain}")


def _ensure_model(kept: Home) -> None:
    store = ArtifactStore(kept.artifacts)
    if DEFAULT_MODEL not in store.list():
        pull_model(kept, DEFAULT_MODEL, DEFAULT_MODEL)
    model = model_view(DEFAULT_MODEL, store.load(DEFAULT_MODEL))
    size = f"{figure(model.parameters / 1e6)} M parameters, {model.layers} layers, int8, {bytes_text(model.size_bytes)}"
    say(f"{model.name}: {size}; {model.license}")
    say(model.notice)


def _temporary_home(stack: ExitStack, signals: Signals, kept: Home) -> Home:
    """A home that goes away again; the models are the kept home's."""
    with signals.held():
        folder = Path(tempfile.mkdtemp(prefix="glmfleet-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
    home = Home.open(folder)
    home.artifacts.symlink_to(kept.artifacts, target_is_directory=True)
    return home


def _start_coordinator(stack: ExitStack, signals: Signals, home: Home) -> None:
    """`glmfleet serve` as a process of its own. Raises Unavailable with its last word when it ends."""
    log = home.path / "serve.log"
    command = [sys.executable, "-P", "-m", "fleet.cli", "serve", "--home", str(home.path), "--port", "0", "--interface", "127.0.0.1"]
    with signals.held(), log.open("wb") as output:
        # A session of its own: Ctrl-C in the terminal is for the demo, which then stops it in order.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        stack.callback(_stop, process)

    def serving() -> bool:
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it ended without a word"]
            raise Unavailable(f"the coordinator did not start: {next((line for line in lines if 'error:' in line), lines[-1])}")
        return home.running_coordinator() is not None

    if not _wait(serving, START_SECONDS):
        raise TimedOut(f"the coordinator did not start within {START_SECONDS:.0f} s", advice="try again: glmfleet demo")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for_devices(coordinator: CoordinatorClient, wanted: set[str]) -> list[DeviceView]:
    found: list[DeviceView] = []

    def complete() -> bool:
        found[:] = [device for device in coordinator.devices() if device.device_id in wanted and device.state == "online"]
        return len(found) == len(wanted)

    if not _wait(complete, DISCOVERY_SECONDS):
        why = "; ".join(explain_none(coordinator.discovery())[:-1]) if not found else f"only {len(found)} of {len(wanted)} devices answered"
        raise Unavailable(why, advice="multicast on the loopback interface is needed: ip link set lo multicast on")
    return sorted(found, key=lambda device: device.name)


def _ask(coordinator: CoordinatorClient, question: str) -> GenerateResult:
    result = stream_answer(coordinator, GenerateRequest(prompt=question, max_tokens=MAX_TOKENS), echo=True)
    say(f"({summary(result)})")
    return result


def _wait(predicate: Callable[[], bool], timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not predicate():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _command() -> str:
    """How this program is called here: by its name when that is on the path, by its file otherwise."""
    if shutil.which("glmfleet"):
        return "glmfleet"
    script = Path(sys.argv[0])
    return "python -m fleet.cli" if script.name == "__main__.py" else os.path.relpath(script)
