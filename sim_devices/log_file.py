"""The log of a process of the simulator: its stderr, which is a file that would grow for ever."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
import sys
from pathlib import Path

MOST_BYTES = 4 << 20
OLD_SUFFIX = ".1"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class BoundedLog(logging.StreamHandler):  # type: ignore[type-arg]
    """Lines on stderr. Where that is a file, it begins anew when it is long, and what was in it is kept in another, `path` with ".1".

    The descriptor stays, since what native code and the interpreter say goes there too.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        super().__init__(sys.stderr)
        self._path = path
        self._most_bytes = most_bytes

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # a full disk, or no file any more: the line is worth more
            self._begin_anew()
        super().emit(record)

    def _begin_anew(self) -> None:
        descriptor = self.stream.fileno()
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size < self._most_bytes or not os.path.samestat(found, self._path.stat()):
            return
        try:
            shutil.copyfile(self._path, self._path.with_name(self._path.name + OLD_SUFFIX))
        finally:
            os.ftruncate(descriptor, 0)  # it was opened to be appended to


def log_to_stderr(path: Path) -> None:
    """`path`: the file that stderr is, if it is one."""
    handler = BoundedLog(path)
    handler.setFormatter(logging.Formatter(FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
