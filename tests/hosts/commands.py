"""`glmfleet` on a host, as its user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hosts.network import ROOT, Host


class Commands:
    """On one host, with a home of its own."""

    def __init__(self, host: Host, home: Path) -> None:
        self._host = host
        self.home = home

    def __call__(self, *arguments: object) -> str:
        """What it says on stdout; it must succeed."""
        done = self._run(*arguments)
        assert not done.returncode, done.stderr
        return done.stdout

    def fails(self, *arguments: object) -> str:
        """What it says on stderr; it must fail."""
        done = self._run(*arguments)
        assert done.returncode == 1, done.stdout
        return done.stderr

    def json(self, *arguments: object) -> Any:
        return json.loads(self(*arguments, "--json"))

    def board(self, *arguments: str) -> None:
        self._host.start("fleet.cli", "--home", str(self.home), "device", "run", *arguments)

    def _run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fleet.cli", "--home", str(self.home), *map(str, arguments)]
        inside = ["ip", "netns", "exec", self._host.namespace, *command]
        return subprocess.run(inside, capture_output=True, text=True, timeout=60, cwd=ROOT)
