"""A fleet on this machine for measuring the whole path: real agents and `glmfleet serve`, each a process, TLS between them or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil

from benchmarks.worker import ROOT
from device.agent.identity import insecure_identity
from fleet.cli.client import CoordinatorClient, connect
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from fleet.trust.authority import Authority
from protos.errors import TimedOut, Unavailable

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Process:
    """An agent or the coordinator."""

    name: str
    child: subprocess.Popen[bytes]

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.child.pid).cpu_times()
        return times.user + times.system

    def peak_resident_bytes(self) -> int:
        """VmHWM: with mapped pages. Linux only."""
        lines = Path(f"/proc/{self.child.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


class LocalFleet:
    """A context manager: an agent for each name in `threads`, with so many, and a coordinator that knows them. What they hold stays in
    `folder`, for the next fleet there. `insecure`: plaintext, as the option of that name."""

    def __init__(self, folder: Path, artifacts: Path, threads: Mapping[str, int], *, insecure: bool = False) -> None:
        self._home = Home.open(folder)
        self._artifacts = artifacts
        self._threads = threads
        self._mode = ("--insecure",) if insecure else ()
        self._stack = ExitStack()
        self.devices: dict[str, Process] = {}
        self._client: CoordinatorClient

    def __enter__(self) -> LocalFleet:
        with ExitStack() as stack:
            if not self._home.artifacts.exists():
                self._home.artifacts.symlink_to(self._artifacts.resolve(), target_is_directory=True)
            authority = None if self._mode else Authority.open(self._home.authority)
            seeds = []
            for name, threads in self._threads.items():
                state = self._home.path / name
                if authority is not None:
                    authority.issue_folder(state, "device", name)
                where = [*self._mode, "--host", "127.0.0.1", "--port", 0, "--interface", "127.0.0.1"]
                process = self._start(stack, name, "device", "--state", state, "--name", name, "--threads", threads, *where)
                assert process.child.stdout
                address = _address(process, process.child.stdout)
                # Without TLS nobody proves who answers there: the id has to be told.
                seeds += ["--seed", f"{insecure_identity(state).device_id}@{address}" if self._mode else address]
                self.devices[name] = process
            serving = [*self._mode, "--port", 0, "--interface", "127.0.0.1", *seeds]
            self.coordinator = self._start(stack, "coordinator", "fleet.cli", "serve", "--home", self._home.path, *serving)
            _wait(lambda: self._home.running_coordinator() is not None, self.coordinator)
            self._client = stack.enter_context(connect(self._home))
            _wait(lambda: sum(device.state == "online" for device in self._client.devices()) == len(self._threads), self.coordinator)
            self._found_at = time.monotonic()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    @property
    def client(self) -> CoordinatorClient:
        return self._client

    @property
    def home(self) -> Home:
        return self._home

    @property
    def url(self) -> str:
        running = self._home.running_coordinator()
        if running is None:
            raise Unavailable("the coordinator has ended")
        return running.url

    def deploy(self, name: str, model: str, devices: Sequence[str], context: int, slots: int) -> Mapping[str, float]:
        """One stage per device; seconds that each took to load its stage."""
        request = PlanRequest(model, stages=len(devices), context=context, slots=slots, devices=tuple(devices))
        with closing(self._client.deploy(request, name)) as events:
            return {event.device_name: event.seconds for event in events if event.kind == "load"}

    def wait_ready(self, name: str) -> float:
        """Until a deployment of an earlier fleet stands again; seconds since the devices were found."""
        _wait(lambda: any(view.name == name and view.state == "ready" for view in self._client.deployments()), self.coordinator)
        return time.monotonic() - self._found_at

    def weight_bytes(self, deployment: str) -> int:
        """Of all its stages, as the plan counts them."""
        return sum(stage.weight_bytes for view in self._client.deployments() if view.name == deployment for stage in view.stages)

    def _start(self, stack: ExitStack, name: str, module: str, *arguments: object) -> Process:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        log = stack.enter_context((self._home.path / f"{name}.log").open("wb"))
        child = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if module == "device" else log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        stack.callback(_stop, child)
        return Process(name, child)


def _address(process: Process, stdout: IO[bytes]) -> str:
    line = stdout.readline()
    if not line:
        raise Unavailable(f"{process.name} did not start")
    return str(json.loads(line)["address"])


def _wait(ready: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if process.child.poll() is not None:
            raise Unavailable(f"the {process.name} ended")
        if time.monotonic() > deadline:
            raise TimedOut(f"the fleet did not stand within {_START_SECONDS:.0f} s")
        time.sleep(0.05)


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdout:
        child.stdout.close()


@contextmanager
def serve(home: Home, devices: int, seeds: Sequence[str] = ()) -> Iterator[CoordinatorClient]:
    """`glmfleet serve` in that home until the end, once it has found so many devices: at `seeds`, else by mDNS on loopback."""
    log = home.path / "coordinator.log"
    with log.open("wb") as sink, ExitStack() as stack:
        command = [sys.executable, "-m", "fleet.cli", "serve", "--home", str(home.path), "--port", "0", "--interface", "127.0.0.1"]
        command += [word for seed in seeds for word in ("--seed", seed)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environment, start_new_session=True)
        stack.callback(_stop, child)
        process = Process("coordinator", child)
        _wait(lambda: home.running_coordinator() is not None, process)
        client = stack.enter_context(connect(home))
        _wait(lambda: sum(device.state == "online" for device in client.devices()) == devices, process)
        yield client
