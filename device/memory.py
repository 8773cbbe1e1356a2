"""What this process really holds of memory, and giving back what it does not need."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import time
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_KEPT: dict[tuple[Path, int], int] = {}  # descriptors, by what they are of


def give_back() -> None:
    """Return freed memory to the system. Blocks for some milliseconds for each GiB.

    A stage's arrays and sessions refer to each other, so they wait for the collector of cycles; glibc keeps in its arenas what was freed
    (measured: 390 of 441 MiB of a stage's weights).
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def held_bytes() -> int | None:
    """Memory of this process that no file backs (RssAnon, Linux 4.5): pages of mapped files can be taken back. None where nothing tells."""
    return _status("RssAnon")


def resident_bytes() -> int:
    """Memory of this process, files that it has mapped counted in."""
    found = _status("VmRSS")
    return int(psutil.Process().memory_info().rss) if found is None else found


def cpu_seconds() -> float:
    """That this process has taken, all its threads together."""
    return time.process_time()


def _status(key: str) -> int | None:
    """The file is kept open: telemetry is told also where descriptors have run out."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        place = (_STATUS, os.getpid())  # a child that was forked has a file of its own
        if place not in _KEPT:
            _KEPT[place] = os.open(_STATUS, os.O_RDONLY | os.O_CLOEXEC)
        for line in os.pread(_KEPT[place], 16_384, 0).decode(errors="replace").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None
