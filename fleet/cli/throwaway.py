"""A fleet that goes away again: a home, devices and a coordinator of its own, for commands that show or try something."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from fleet.cli.client import CoordinatorClient
from fleet.cli.devices import explain_none
from fleet.cli.model import pull_model
from fleet.cli.signals import Signals
from fleet.devices.views import DeviceView
from fleet.home import Home
from protos.errors import TimedOut, Unavailable
from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore
from quantize.hub.catalog import DEFAULT_MODEL

START_SECONDS = 30.0
DISCOVERY_SECONDS = 20.0
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05


def ensure_model(kept: Home) -> Manifest:
    """The default model, which is pulled where it is not there yet."""
    store = ArtifactStore(kept.artifacts)
    if DEFAULT_MODEL not in store.list():
        pull_model(kept, DEFAULT_MODEL, DEFAULT_MODEL)
    return store.load(DEFAULT_MODEL)


def temporary_home(stack: ExitStack, signals: Signals, kept: Home, purpose: str) -> Home:
    """A home that goes away again; the models are the kept home's."""
    with signals.held():
        folder = Path(tempfile.mkdtemp(prefix=f"glmfleet-{purpose}-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
    home = Home.open(folder)
    home.artifacts.symlink_to(kept.artifacts, target_is_directory=True)
    return home


def start_coordinator(stack: ExitStack, signals: Signals, home: Home) -> subprocess.Popen[bytes]:
    """`glmfleet serve` as a process of its own. Raises Unavailable with its last word when it ends."""
    log = home.path / "serve.log"
    command = [sys.executable, "-P", "-m", "fleet.cli", "serve", "--home", str(home.path), "--port", "0", "--interface", "127.0.0.1"]
    with signals.held(), log.open("wb") as output:
        # A session of its own: Ctrl-C in the terminal is for the demo, which then stops it in order.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        stack.callback(stop, process)

    def serving() -> bool:
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it ended without a word"]
            raise Unavailable(f"the coordinator did not start: {next((line for line in lines if 'error:' in line), lines[-1])}")
        return home.running_coordinator() is not None

    if not wait_until(serving, START_SECONDS):
        raise TimedOut(f"the coordinator did not start within {START_SECONDS:.0f} s", advice="is the machine busy? try again")
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_devices(coordinator: CoordinatorClient, wanted: set[str]) -> list[DeviceView]:
    found: list[DeviceView] = []

    def complete() -> bool:
        found[:] = [device for device in coordinator.devices() if device.device_id in wanted and device.state == "online"]
        return len(found) == len(wanted)

    if not wait_until(complete, DISCOVERY_SECONDS):
        why = "; ".join(explain_none(coordinator.discovery())[:-1]) if not found else f"only {len(found)} of {len(wanted)} devices answered"
        raise Unavailable(why, advice="multicast on the loopback interface is needed: ip link set lo multicast on")
    return sorted(found, key=lambda device: device.name)


def wait_until(predicate: Callable[[], bool], timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not predicate():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
