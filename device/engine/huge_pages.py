"""Weights in huge pages. A core reads ahead to the end of a page only, and small ones outnumber what its table of pages remembers.

Only Linux's anonymous memory is asked for: pages of a mapped file are as large as its file system makes them.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
_MAPPINGS = Path("/proc/self/smaps")
_MADV_COLLAPSE = 25  # linux/mman.h; at once, since Linux 6.1
_LEAST_BYTES = 4 << 20
# Those of ARM with small pages of 64 KiB have 512 MiB: no weights fill them, and no memory has them in one piece.
_LARGEST_PAGE_BYTES = 32 << 20
# A huge page is whole: what was not touched would be taken too.
_LEAST_RESIDENT = 0.9

# proc_pid_smaps(5)
_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+) *(.*)")


@dataclass
class Mapping:
    """`small`: that its pages stay small was asked for: by the cache, or for the heap while it is trimmed."""

    start: int
    stop: int
    anonymous: bool
    resident_bytes: int = 0
    small: bool = False
    heap: bool = False

    def whole_pages(self, page_bytes: int) -> range:
        """Addresses of the huge pages that lie in it; none where it is not worth it."""
        size = self.stop - self.start
        worth = self.anonymous and (self.heap or not self.small) and size >= _LEAST_BYTES and self.resident_bytes >= _LEAST_RESIDENT * size
        return range(-(-self.start // page_bytes) * page_bytes, self.stop - page_bytes + 1, page_bytes) if worth else range(0)


@contextmanager
def huge_pages() -> Iterator[None]:
    """Moves what the block fills memory with into huge pages, if that is more than a few MiB."""
    process = psutil.Process()
    before = process.memory_info().rss
    yield
    if process.memory_info().rss - before >= _LEAST_BYTES:
        use_huge_pages()


def use_huge_pages() -> int:
    """Have what fills this process's memory moved into huge pages, where it may; returns the bytes that are.

    Other threads may go on meanwhile. What the kernel cannot do at once (before Linux 6.1) it is left to do by and by.
    """
    page_bytes = _page_bytes()
    if not page_bytes:
        return 0
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    moved_bytes = 0
    try:
        found = list(mappings(_MAPPINGS.read_text(errors="replace").splitlines()))
    except OSError:  # a kernel without them, or a process that may not read its own
        return 0
    for mapping in found:
        pages = mapping.whole_pages(page_bytes)
        if pages and mapping.small:
            advise(pages[0], len(pages) * page_bytes, mmap.MADV_HUGEPAGE)  # until memory is given back the next time
        # One by one: a page that cannot be moved keeps none of the others.
        for page in pages:
            if advise(page, page_bytes, _MADV_COLLAPSE) == 0:
                moved_bytes += page_bytes
            elif ctypes.get_errno() in (errno.ENOMEM, errno.EBUSY):  # there are no more: each further one would be searched for in vain
                return moved_bytes
            elif page == pages[0]:
                advise(page, len(pages) * page_bytes, mmap.MADV_HUGEPAGE)
    return moved_bytes


def mappings(smaps: Iterable[str]) -> Iterator[Mapping]:
    """Of the lines of /proc/PID/smaps."""
    mapping: Mapping | None = None
    for line in smaps:
        if header := _HEADER.fullmatch(line):
            if mapping:
                yield mapping
            start, stop, permissions, inode, path = header.groups()
            heap = path == "[heap]"
            mapping = Mapping(int(start, 16), int(stop, 16), permissions == "rw-p" and inode == "0" and (heap or not path), heap=heap)
        elif mapping and line.startswith("Rss:"):
            mapping.resident_bytes = int(line.split()[1]) << 10
        elif mapping and line.startswith("VmFlags:"):
            mapping.small = "nh" in line.split()
    if mapping:
        yield mapping


def _page_bytes() -> int:
    """Of a huge page; 0 where there are none of use, or the system's keeper wants none."""
    try:
        if "[never]" in (_SETTINGS / "enabled").read_text():
            return 0
        page_bytes = int((_SETTINGS / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0
    return page_bytes if page_bytes <= _LARGEST_PAGE_BYTES else 0
