"""Whether a folder can be written to, found out by writing, and why not in words."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from protos.errors import FleetError, InvalidInput, NoSpace

FULL = (errno.ENOSPC, errno.EDQUOT)
TRIAL_BYTES = 64 << 10  # an empty file fits on many a full disk
_WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.EIO: "the disk does not work (input/output error)",
    errno.ENOENT: "it is not there",
    errno.ENOTDIR: "it is no folder",
    errno.EEXIST: "it is no folder",
    errno.ENOTCONN: "its file system is not connected",
    errno.ESTALE: "its file system is not connected",
}


def why(error: OSError) -> str:
    """Why the file system refused, in a few plain words."""
    return _WORDS.get(error.errno or 0) or (error.strerror or str(error)).lower()


@contextlib.contextmanager
def told(path: Path, advice: str = "choose another folder with --home") -> Iterator[None]:
    """What the file system refuses inside becomes one line that names `path`. Raises NoSpace, InvalidInput."""
    try:
        yield
    except OSError as error:
        raise refusal(path, error, advice) from error


def refusal(path: Path, error: OSError, advice: str) -> FleetError:
    if error.errno in FULL:
        return NoSpace(f"{why(error)}, writing {path}", advice=f"free some space, or {advice}")
    return InvalidInput(f"cannot write {path}: {why(error)}", advice=advice)


def try_to_write(folder: Path, size_bytes: int = TRIAL_BYTES) -> None:
    """Write so much to a nameless file of the folder, down to the disk. Raises OSError. Blocks."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as trial:
        left = memoryview(bytes(size_bytes))
        while left:
            left = left[trial.write(left) :]
        os.fsync(trial.fileno())  # a quota over a network speaks up no sooner


def write_problem(folder: Path) -> str:
    """Why nothing can be written to the folder; "" when it can. Blocks."""
    try:
        try_to_write(folder)
    except OSError as error:
        return why(error)
    return ""


def free_bytes(folder: Path) -> int:
    """For this user, of the file system that the folder is on; 0 where that cannot be told."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free
    return 0
