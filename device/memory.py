"""What this process really holds of memory, and giving back what it does not need."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import re
import time
import traceback
from pathlib import Path

import psutil

_STATUS, _MAPS = Path("/proc/self/status"), Path("/proc/self/maps")
_KEPT: dict[tuple[Path, int], int] = {}  # descriptors, by what they are of
_HEAP = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-p .*\[heap\]$", re.MULTILINE)  # several, where parts of it were advised differently

# malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# numpy advises the kernel to use huge pages for arrays of this size and more: they must be no part of the heap.
OWN_MAPPING_BYTES = 4 << 20


def use_one_heap() -> None:
    """Have all threads share one heap, which can be given back; to be called before there are any.

    glibc gives each thread an arena, and none of these can be trimmed at its end, where up to 64 MiB stay once large arrays were freed
    (measured: 22 of a stage's 30 MiB of weights). Larger arrays get mappings of their own, which go when they are freed.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, OWN_MAPPING_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * OWN_MAPPING_BYTES)  # glibc's own proportion


def give_back() -> None:
    """Return freed memory to the system. Blocks for some milliseconds for each GiB.

    A stage's arrays and sessions refer to each other, so they wait for the collector of cycles; glibc keeps in its heap what was freed
    (measured: 390 of 441 MiB of a stage's weights).
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        _leave_to_small_pages(libc)
        libc.malloc_trim(0)


def let_go(error: BaseException | None) -> None:
    """Of what there was when it was raised: its frames keep that, as long as anybody keeps the error."""
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


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


def _leave_to_small_pages(libc: ctypes.CDLL) -> None:
    """Else the kernel's own thread, where it was asked for huge pages, fills again what is given back. Raises OSError where no /proc is."""
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, stop in _HEAP.findall(_MAPS.read_text(errors="replace")):
        libc.madvise(int(start, 16), int(stop, 16) - int(start, 16), mmap.MADV_NOHUGEPAGE)
