"""One agent for each state folder: two would be one device at two addresses, and write over each other's blobs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protos.errors import Conflict, InvalidInput
from protos.modes import check_folder

_FILE = "agent.lock"


def _lock(descriptor: int) -> None:
    """Raises BlockingIOError when another agent holds it, and not merely a passing look of `running_agent`."""
    for _ in range(9):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.005)  # a look takes microseconds
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def running_agent(state: Path) -> str | None:
    """The process of the agent that runs on this folder, as text ("unknown" when it cannot be read); None where none does."""
    try:
        descriptor = os.open(state / _FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(descriptor)
    return None


@contextmanager
def only_agent(state: Path) -> Iterator[None]:
    """While entered, no other agent can be of this folder.

    Raises Conflict naming the process of one that runs, InvalidInput, Denied when others can write to the folder.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_folder(state)
        descriptor = os.open(state / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidInput(f"cannot write {state / _FILE}: {error.strerror}", advice="choose another folder with --home") from error
    try:
        try:
            _lock(descriptor)
        except BlockingIOError as error:
            process = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            raise Conflict(f"an agent of {state} runs already (process {process})", advice="stop that one first") from error
        with contextlib.suppress(OSError):  # a full disk: the number is for people
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
