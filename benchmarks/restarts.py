"""How long a site is without an answer when its coordinator dies, and when the power of all of it is cut.

python -m benchmarks.restarts --model smollm2-135m --runs 5       (of the home that GLMFLEET_HOME names)

Simulated devices and `glmfleet serve`, each a process; one of each kind of trouble after the other. `coordinator`: it is killed (SIGKILL)
and started again. `devices`: all of them are, a while after. `site`: all devices and the coordinator. The seconds are from the moment at
which the last of those processes was started again to the first token of a request that is asked again and again; "ready" is when
`GET /readyz` says so.
"""

from __future__ import annotations

import argparse
import signal
import subprocess  # nosec B404 # our own programs
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from statistics import median

from benchmarks.boards import deploy, throwaway_boards
from benchmarks.worker import ROOT
from fleet.answering.views import GenerateRequest
from fleet.cli.client import connect
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from protos.errors import FleetError, TimedOut
from sim_devices.local_fleet import DeviceSpec, LocalFleet

ENOUGH_SECONDS = 120.0
LOOK_SECONDS = 0.02
# What is down stays down for so long: long enough that everybody has noticed.
DOWN_SECONDS = 3.0
REQUEST = GenerateRequest(prompt_ids=tuple(range(100, 132)), max_tokens=4, ignore_eos=True)


@dataclass
class Site:
    """A coordinator and its devices, of one home."""

    home: Home
    boards: LocalFleet
    coordinator: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        arguments = [sys.executable, "-m", "fleet.cli", "serve", "--home", str(self.home.path), "--port", "0", "--interface", "127.0.0.1"]
        self.coordinator = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill_coordinator(self) -> None:
        assert self.coordinator
        self.coordinator.kill()
        self.coordinator.wait()

    def kill_devices(self) -> None:
        for device in self.boards.status():
            self.boards.send(device.name, signal.SIGKILL)
        wait(lambda: not any(device.running for device in self.boards.status()))

    def start_devices(self) -> None:
        for device in self.boards.status():
            self.boards.restart(device.name)

    def answers(self) -> bool:
        """One token, from whoever coordinates now."""
        with suppress(FleetError), connect(self.home) as client, closing(client.generate(REQUEST)) as parts:
            return next(parts, None) is not None
        return False

    def is_ready(self) -> bool:
        with suppress(FleetError), connect(self.home) as client:
            return [view.state for view in client.deployments()] == ["ready"]
        return False


def wait(so: Callable[[], bool]) -> float:
    """Seconds until it is so. Raises TimedOut."""
    began = time.monotonic()
    while not so():
        if time.monotonic() - began > ENOUGH_SECONDS:
            raise TimedOut(f"not within {ENOUGH_SECONDS:.0f} s")
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - began


def coordinator_dies(site: Site) -> None:
    site.kill_coordinator()
    site.serve()


def devices_die(site: Site) -> None:
    site.kill_devices()
    time.sleep(DOWN_SECONDS)
    site.start_devices()


def power_is_cut(site: Site) -> None:
    site.kill_coordinator()
    site.kill_devices()
    time.sleep(DOWN_SECONDS)
    site.serve()
    site.start_devices()


TROUBLES: dict[str, Callable[[Site], None]] = {"coordinator": coordinator_dies, "devices": devices_die, "site": power_is_cut}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--profile", default="raspberry-pi-5")
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5, help="of each trouble")
    options = parser.parse_args(arguments)
    with throwaway_boards() as (home, boards), ExitStack() as stack:
        boards.up([DeviceSpec(options.profile)] * options.stages)
        site = Site(home, boards)
        site.serve()
        stack.callback(site.kill_coordinator)
        wait(lambda: home.running_coordinator() is not None)
        with connect(home) as client:
            wait(lambda: sum(view.state == "online" for view in client.devices()) == options.stages)
            deploy(client, PlanRequest(options.model, stages=options.stages, context=512, slots=8))
        print("| killed | runs | first token s | worst | ready s | worst |")
        print("|---|---|---|---|---|---|")
        for name, trouble in TROUBLES.items():
            tokens, ready = [], []
            for _ in range(options.runs):
                wait(site.answers)
                trouble(site)
                began = time.monotonic()
                wait(site.answers)
                tokens.append(time.monotonic() - began)
                wait(site.is_ready)
                ready.append(time.monotonic() - began)
            figures = [f"{of(seconds):.2f}" for seconds in (tokens, ready) for of in (median, max)]
            print(f"| {name} | {options.runs} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
