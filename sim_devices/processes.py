"""Child processes that outlive the command that starts them: found again by their record, told from a stranger with their pid."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from protos.errors import TimedOut, Unavailable, by_name

LOG = "log.txt"


def start(module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """`python -m module` in a session of its own, with a log in `folder`, which is among its `arguments`. Raises OSError."""
    # The same packages as this process uses, wherever it was started.
    paths = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    (folder / LOG).write_bytes(b"")
    with (folder / LOG).open("ab") as log:  # to be appended to: log_file.py begins it anew
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
            start_new_session=True,
        )


def ready_line(process: subprocess.Popen[bytes], name: str, folder: Path, deadline: float, patience_seconds: float) -> dict[str, str]:
    """The JSON line that it says when it is ready. Raises what it says instead, with `name` in front; TimedOut, Unavailable."""
    line = first_line(process, deadline)
    if line is None:
        raise TimedOut(f"{name} did not start within {patience_seconds:.0f} s", advice=f"see {folder / LOG}")
    try:
        said = json.loads(line)
    except ValueError:
        said = {}
    if "error" in said:
        error = by_name(said["error"], said["detail"])
        error.advice = said.get("advice", "")
        raise error.at(name)
    if "address" not in said:
        word = last_line(folder) or "it ended without a word"
        raise Unavailable(f"{name} did not start: {word}", advice=f"see {folder / LOG}")
    return {key: str(value) for key, value in said.items()}


def living(pid: int, started: float, folder: Path) -> psutil.Process | None:
    """The process, if it is alive, and not another one that was given its pid. `started`: unix seconds, as psutil tells it."""
    try:
        process = psutil.Process(pid)
        # Both are read off the same clock, but psutil adds the time of boot, which may be corrected by a little.
        if abs(process.create_time() - started) > 2 or process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process if str(folder) in process.cmdline() else None
    except psutil.Error:
        return None


def stop(processes: Sequence[psutil.Process], patience_seconds: float) -> None:
    """SIGTERM, then SIGKILL. One that stands still is woken, to go by itself."""
    for process in processes:
        send_signal(process, signal.SIGTERM)
        send_signal(process, signal.SIGCONT)
    stubborn = _wait_ended(processes, patience_seconds)
    for process in stubborn:
        send_signal(process, signal.SIGKILL)
    _wait_ended(stubborn, patience_seconds)


def _wait_ended(processes: Sequence[psutil.Process], patience_seconds: float) -> list[psutil.Process]:
    """Those that still run then.

    psutil.wait_procs would wait until they are reaped as well: for seconds, or for ever, in a container whose first process reaps nobody.
    """
    deadline = time.monotonic() + patience_seconds
    while (left := [process for process in processes if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def _runs(process: psutil.Process) -> bool:
    """A zombie whose other threads have not ended yet still holds its files and memory."""
    try:
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False


def send_signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def first_line(process: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """Of stdout; empty when it ended without one, None when the deadline passed."""
    assert process.stdout is not None
    descriptor, data = process.stdout.fileno(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while b"\n" not in data:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            more = os.read(descriptor, 65536)
            if not more:
                process.wait()
                return data
            data += more
    return data.partition(b"\n")[0]


def last_line(folder: Path) -> str:
    """Of its log."""
    try:
        lines = (folder / LOG).read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:500] if lines else ""
