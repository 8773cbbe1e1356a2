"""`glmfleet` on a host, as its user runs it, and a fleet of such hosts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.hosts.network import ROOT, Host
from tests.support.processes import wait_for

_SECONDS = 60.0  # that a command has
_SERVES_SECONDS = _JOINS_SECONDS = 30.0


class Commands:
    """On one host, with a home of its own."""

    def __init__(self, host: Host, home: Path) -> None:
        self.host = host
        self.home = home

    def __call__(self, *arguments: object, seconds: float = _SECONDS) -> str:
        """What it says on stdout; it must succeed."""
        done = self._run(*arguments, seconds=seconds)
        assert not done.returncode, done.stderr
        return done.stdout

    def fails(self, *arguments: object) -> str:
        """What it says on stderr; it must fail."""
        done = self._run(*arguments)
        assert done.returncode == 1, done.stdout
        return done.stderr

    def json(self, *arguments: object) -> Any:
        return json.loads(self(*arguments, "--json"))

    def begin(self, *arguments: object) -> subprocess.Popen[str]:
        """As a call, without waiting for its end."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self._command(*arguments), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)

    def serve(self, *arguments: str) -> None:
        """Until the network ends; waits until it does."""
        self.host.start("fleet.cli", "--home", str(self.home), "serve", "--port", "0", *arguments)
        wait_for(lambda: (self.home / "coordinator.json").exists(), _SERVES_SECONDS)

    @property
    def port(self) -> int:
        """Of the API that is served here."""
        return int(json.loads((self.home / "coordinator.json").read_text())["url"].rpartition(":")[2])

    def board(self, *arguments: str) -> None:
        self.host.start("fleet.cli", "--home", str(self.home), "device", "run", *arguments)

    def _command(self, *arguments: object) -> list[str]:
        return self.host.command(sys.executable, "-m", "fleet.cli", "--home", str(self.home), *map(str, arguments))

    def _run(self, *arguments: object, seconds: float = _SECONDS) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self._command(*arguments), capture_output=True, text=True, timeout=seconds, cwd=ROOT)


def fleet_of(desk: Commands, boards: Sequence[Commands]) -> None:
    """Serves at the desk, and has the boards join it by tokens, under their hosts' names."""
    desk.serve()
    for board in boards:
        board.board("--token", desk.json("devices", "token")["token"])
    names = {board.host.name: "online" for board in boards}
    wait_for(lambda: {one["name"]: one["state"] for one in desk.json("devices")} == names, _JOINS_SECONDS)
