"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from protos.errors import InvalidInput, NoSpace

_PREFIX = ".staged-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StagedFile:
    """A temporary file in `folder`, gone at the end of the context unless `commit` gave it its name.

    It stays locked while its writer lives, which is how `sweep_staged` tells a stale one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        while True:
            self.path = self._folder / f"{_PREFIX}{secrets.token_hex(8)}"
            self._file = self.path.open("xb")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if os.fstat(self._file.fileno()).st_nlink:
                return self
            self._file.close()  # swept between open and lock: once more

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.path.unlink(missing_ok=True)
        finally:
            try:
                self._file.close()
            except OSError:  # bytes still buffered for a full disk: what made the block fail is what matters
                if error is None:
                    raise

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def commit(self, path: Path) -> None:
        """Gives the file its final name in the same file system, after its bytes are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.path.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_at(descriptor: int, count: int, offset: int, name: str) -> npt.NDArray[np.uint8]:
    """`count` bytes of an open file, as an array of its own. Not through a map of the file: what was read of one stays resident.

    Raises InvalidInput, naming the file, when it has become shorter.
    """
    data = np.empty(count, np.uint8)
    done = 0
    while done < count:
        read = os.preadv(descriptor, [data[done:].data], offset + done)  # at most 2 GiB a call
        if read == 0:
            raise InvalidInput(f"{name} became shorter while it was read", advice="get the file again, then start once more")
        done += read
    return data


def sweep_staged(folder: Path) -> None:
    """Removes what a killed writer left in `folder`; a living writer's file is locked and stays."""
    for path in folder.glob(f"{_PREFIX}*"):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except OSError:  # locked, gone, or not ours: sweeping is a courtesy
            continue


@contextmanager
def no_space_as_ours(where: Path) -> Iterator[None]:
    """The operating system's "disk full" becomes NoSpace; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(f"the disk that holds {where} is full", advice="free some space, or choose another folder with --home") from error
        raise
