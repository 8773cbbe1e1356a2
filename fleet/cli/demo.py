"""The command that shows everything in a minute, from nothing, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.cli.answers import stream_answer
from fleet.cli.client import CoordinatorClient, connect
from fleet.cli.costs import combined, print_devices_cost, summary
from fleet.cli.demo_picture import picture
from fleet.cli.deploy import follow, print_plan
from fleet.cli.devices import print_devices
from fleet.cli.options import DEFAULT_PORT, HomeOption, open_home
from fleet.cli.output import count_text, figure, say
from fleet.cli.signals import Signals
from fleet.cli.sim_fleet import device_specs, local_fleet
from fleet.cli.throwaway import ensure_model, start_coordinator, temporary_home, wait_for_devices
from fleet.home import Home, write_private
from fleet.planning.plan import Plan, PlanRequest
from fleet.service.models import model_view
from protos.sizes import bytes_text
from quantize.hub.catalog import DEFAULT_MODEL

FIRST_PROMPT = "What is the capital of France?"
CONTEXT = 1024
MAX_TOKENS = 128
PICTURE = "demo.svg"


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
                plan, asked = _show(stack, signals, kept, prompt, devices)
            finally:
                signals.ignore()
                stack.close()
        finally:
            stack.close()
    command = _command()
    _section("Yours now")
    say(f"Everything is stopped again, after {time.monotonic() - began:.0f} s; the model was kept, and a picture:")
    say(f"  {_draw(kept, plan, asked)}")
    say("Go on with:")
    say(f"  {command} sim up --devices 3 && {command} serve")
    say(f"  {command} deploy {DEFAULT_MODEL}      (in another terminal)")
    say(f"  {command} chat          (or on the page: http://127.0.0.1:{DEFAULT_PORT}/)")


def _show(stack: ExitStack, signals: Signals, kept: Home, prompt: str, devices: int) -> tuple[Plan, list[tuple[str, GenerateResult]]]:
    _section("A model")
    _show_model(kept)
    home = temporary_home(stack, signals, kept, "demo")

    _section(f"{count_text(devices, 'simulated device')}, each a process of its own")
    start_coordinator(stack, signals, home)
    if (running := home.running_coordinator()) is not None:
        say(f"to look at while it runs: {running.url}/")
    fleet = local_fleet(home)
    stack.callback(fleet.down)
    with signals.held():
        started = {device.device_id for device in fleet.up(device_specs((), devices, "fast", None))}
    coordinator = stack.enter_context(connect(home))
    waited = time.monotonic()
    found = wait_for_devices(coordinator, started)
    print_devices(found)
    say(f"found by mDNS on 127.0.0.1, {time.monotonic() - waited:.1f} s after they were ready; every link is mutual TLS")

    _section("The plan, and the model on its way")
    events = coordinator.deploy(PlanRequest(DEFAULT_MODEL, objective="throughput", stages=devices, context=CONTEXT), None)
    stack.callback(events.close)
    plans: list[Plan] = []

    def planned(made: Plan) -> None:
        plans.append(made)
        print_plan(made)

    follow(events, on_plan=planned)

    asked = []
    for question in (FIRST_PROMPT, prompt):
        _section(question)
        asked.append((question, _ask(coordinator, question)))

    _section("What it cost")
    print_devices_cost(combined([result for _, result in asked]))
    say("wall: seconds of this machine; modelled: seconds and joules of the real accelerators (glmfleet sim profiles)")
    return plans[-1], asked


def _draw(kept: Home, plan: Plan, asked: Sequence[tuple[str, GenerateResult]]) -> Path:
    """Raises NoSpace."""
    file = kept.path / PICTURE
    write_private(file, picture(plan, asked).encode())
    return file


def _section(title: str) -> None:
    bold, plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")
    say(f"\n{bold}== {title}{plain}")


def _show_model(kept: Home) -> None:
    model = model_view(DEFAULT_MODEL, ensure_model(kept))
    size = f"{figure(model.parameters / 1e6)} M parameters, {model.layers} layers, int8, {bytes_text(model.size_bytes)}"
    say(f"{model.name}: {size}; {model.license}")
    say(model.notice)


def _ask(coordinator: CoordinatorClient, question: str) -> GenerateResult:
    result = stream_answer(coordinator, GenerateRequest(prompt=question, max_tokens=MAX_TOKENS), echo=True)
    say(f"({summary(result)})")
    return result


def _command() -> str:
    """How this program is called here: by its name when that is on the path, by its file otherwise."""
    if shutil.which("glmfleet"):
        return "glmfleet"
    script = Path(sys.argv[0])
    return "python -m fleet.cli" if script.name == "__main__.py" else os.path.relpath(script)
