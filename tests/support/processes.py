"""The command as a user runs it: processes of their own, and a look at what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from fleet.cli.client import connect
from fleet.home import Home
from tests.support.warm_command import warm_command

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Glmfleet:
    """`glmfleet --home HOME ...`, with additional environment."""

    home: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """In a process forked from one that has loaded the command, or a new one where the environment says which code to run."""
        if not self.environment.keys() & {"PYTHONPATH", "PYTHONSAFEPATH"}:
            return warm_command().call(["--home", str(self.home), *map(str, arguments)], self._environment(), timeout)
        return self._anew(arguments, timeout)

    def start(self, *arguments: object, stdin: bool = False) -> subprocess.Popen[str]:
        """In a session of its own, so that a signal to its group does not reach the tests."""
        return subprocess.Popen(
            self._command(arguments),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment(),
            cwd=self._folder(),
            start_new_session=True,
        )

    def states(self) -> dict[str, str]:
        """Of the devices by name, asked without a process: it is asked again and again."""
        with connect(Home(self.home)) as coordinator:
            return {device.name: device.state for device in coordinator.devices()}

    def deployed(self) -> list[str]:
        """The states of its deployments."""
        with connect(Home(self.home)) as coordinator:
            return [deployment.state for deployment in coordinator.deployments()]

    @contextmanager
    def serving(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """`glmfleet serve` on a free port, ready; ended at the end, whatever happened."""
        server = self.start("serve", "--port", 0, "--interface", "127.0.0.1", *arguments)
        try:
            wait_for(lambda: server.poll() is not None or Home(self.home).running_coordinator() is not None, 30)
            assert server.poll() is None, server.communicate()
            yield server
        finally:
            if server.poll() is None:
                server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
                raise
            finally:
                server.communicate()

    def _anew(self, arguments: tuple[object, ...], timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self._environment(),
            cwd=self._folder(),
            check=False,
        )

    def _command(self, arguments: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", "fleet.cli", "--home", str(self.home), *(str(each) for each in arguments)]

    def _folder(self) -> Path | None:
        """That it is called in; None: the tests' own."""
        return None

    def _environment(self) -> dict[str, str]:
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return {**os.environ, "PYTHONPATH": paths, "COLUMNS": "80", "NO_COLOR": "1", **self.environment}


def wait_for(predicate: Callable[[], bool], timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not predicate():
        assert time.monotonic() < deadline, f"did not come true within {timeout_seconds} s"
        time.sleep(0.02)


def processes_naming(text: str) -> list[list[str]]:
    """Command lines of living processes that mention `text`, this one's left out."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if process.pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE and any(text in word for word in line):
            found.append(line)
    return found
