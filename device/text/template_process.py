"""A chat template in a process of its own, killed when it takes too long."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

SECONDS = 5.0  # real templates take milliseconds, the first call a tenth of a second to start Python


class Killed(Exception):
    """It took more time or memory than it may."""


class NoTemplate(Exception):
    """The source is no template."""


class TemplateProcess:
    """Started at the first call, and again after it was killed; ends with this object. Safe to use from several threads."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._problem = ""  # with the source, once it is known

    def call(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What `device.text.template_worker` answers. Raises Killed, NoTemplate."""
        with self._lock:
            process = self._process
            if not self._problem and (process is None or process.poll() is not None):
                process = self._process = _start(self)
                self._problem = _exchange(process, {"source": self._source}).get("error", "")
                if self._problem:
                    _end(process)
            if self._problem or process is None:
                raise NoTemplate(self._problem)
            return _exchange(process, asked)


def _start(owner: TemplateProcess) -> subprocess.Popen[bytes]:
    # -P: else modules would be looked for in the working folder first, which may be a stranger's checkpoint.
    command = [sys.executable, "-P", "-m", "device.text.template_worker"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    weakref.finalize(owner, _end, process)
    return process


def _exchange(process: subprocess.Popen[bytes], asked: Mapping[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    descriptor, deadline, data = process.stdout.fileno(), time.monotonic() + SECONDS, bytearray()
    try:
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(descriptor, 1 << 20) if ready else b""
            if not piece:
                raise Killed
            data += piece
    except (Killed, BrokenPipeError):
        _end(process)
        raise Killed from None
    answer: dict[str, Any] = json.loads(data)
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was still to be written has no reader
                continue
