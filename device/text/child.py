"""A process of ours in which a stranger's file is worked on: asked in lines of JSON, killed when it takes too long."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from typing import Any


class Killed(Exception):
    """It took more time or memory than it may."""


class Child:
    """Runs from the beginning, and ends with this object at the latest. One thread asks at a time; any may end it."""

    def __init__(self, module: str) -> None:
        # -P: else modules would be looked for in the working folder first, which may be a stranger's checkpoint.
        command = [sys.executable, "-P", "-m", module]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._finalizer = weakref.finalize(self, _end, self.process)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, asked: Mapping[str, Any], seconds: float, data: bytes = b"") -> dict[str, Any]:
        """What it answers within `seconds`; `data` follows the question. Raises Killed, and then it has ended."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        deadline, answer = time.monotonic() + seconds, bytearray()
        try:
            stdin.write(json.dumps(asked).encode() + b"\n" + data)
            stdin.flush()
            while not answer.endswith(b"\n"):
                ready, _, _ = select.select([stdout.fileno()], [], [], max(0.0, deadline - time.monotonic()))
                piece = os.read(stdout.fileno(), 1 << 20) if ready else b""
                if not piece:
                    raise Killed
                answer += piece
        except (Killed, OSError, ValueError):  # the latter two where another thread has ended it
            self.end()
            raise Killed from None
        found: dict[str, Any] = json.loads(answer)
        return found

    def kill(self) -> None:
        """From any thread: who asks is told that it was killed."""
        self.process.kill()

    def end(self) -> None:
        self._finalizer()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was still to be written has no reader
                continue
