"""The device's content-addressed store: nothing is kept that its digest does not vouch for."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from protos import disks
from protos.errors import Busy, Corrupt, InvalidInput, NoSpace, NotFound
from protos.ids import Digest
from protos.sizes import bytes_text

_READ_BYTES = 1 << 20
_TRIAL_BYTES = 4 << 10  # written again and again, perhaps to a memory card
# Below this, the file system is left alone: an agent that fills its disk cannot even log.
RESERVE_BYTES = 16 << 20
_FREE_DISK = "free some disk on the device"
_MAKE_ROOM = "let the device's agent write to that folder, or give it another"


class Arriving(Protocol):
    """One blob on its way in; see Arrival."""

    received_bytes: int

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def catch_up(self) -> None: ...
    def write(self, chunk: bytes) -> None: ...
    def finish(self) -> None: ...


class Blobs(Protocol):
    """What an agent asks of its store; see BlobStore."""

    folder: Path
    problem: str
    frozen: bool

    def look(self) -> None: ...
    def has(self, digest: Digest) -> bool: ...
    def present_bytes(self, digest: Digest) -> int: ...
    def free_bytes(self) -> int: ...
    def arrive(self, digest: Digest, size_bytes: int, offset: int) -> Arriving: ...
    def verify(self, digest: Digest) -> None: ...
    def droppable_bytes(self, keep: Collection[Digest]) -> int: ...
    def retain(self, keep: Iterable[Digest]) -> int: ...


class Disk:
    """What a store asks of the file system it lies on. A write that finds no room raises OSError with ENOSPC."""

    def free_bytes(self, folder: Path) -> int:
        return disks.free_bytes(folder)

    def append(self, path: Path) -> io.FileIO:
        # Unbuffered: a full disk must show in the write that meets it, not again in the closing.
        return io.FileIO(path, "a")

    def try_to_write(self, folder: Path) -> None:
        """Raises OSError."""
        disks.try_to_write(folder, _TRIAL_BYTES)


class BlobStore:
    """Blobs below `root/sha256/`, arriving ones below `root/incoming/`. `problem` says why no more can be kept, as it was last seen;
    `frozen`: nothing can be dropped either.

    `look`, `verify` and `retain` block: call them in an executor. Raises InvalidInput when there are no such folders, nor can be.
    """

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.folder = root / "sha256"
        self._incoming = root / "incoming"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._incoming.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"the folder of blobs {root} cannot be made: {disks.why(error)}", advice=_MAKE_ROOM) from error
        self._arriving: set[str] = set()
        self._changing = threading.Lock()  # of what arrives and what is dropped
        self.problem, self.frozen = "", False
        self.look()

    def look(self) -> None:
        """Find out by writing whether more can be kept: a quota or a worn-out card shows no other way. What is kept serves all the same."""
        try:
            self.disk.try_to_write(self._incoming)
        except OSError as error:
            self.refused(error)
        else:
            free, full = self.disk.free_bytes(self.folder), f"{self._incoming.parent}: the disk is full"
            left = f"{bytes_text(free)} are free, and {bytes_text(RESERVE_BYTES)} are left to the system"
            self.problem, self.frozen = "" if free > RESERVE_BYTES else f"{full}, {left}", False

    def refused(self, error: OSError) -> None:
        """The file system did not take what was written."""
        self.problem, self.frozen = f"{self._incoming.parent} cannot be written to: {disks.why(error)}", error.errno not in disks.FULL

    def has(self, digest: Digest) -> bool:
        return (self.folder / digest).is_file()

    def present_bytes(self, digest: Digest) -> int:
        """How much of the blob is here: all of it, or what a cut transfer left."""
        for path in (self.folder / digest, self._partial(digest)):
            try:
                return path.stat().st_size
            except FileNotFoundError:
                continue
        return 0

    def free_bytes(self) -> int:
        return max(0, self.disk.free_bytes(self.folder) - RESERVE_BYTES)

    def arrive(self, digest: Digest, size_bytes: int, offset: int) -> Arrival:
        """Take up an arriving blob at `offset`: `with` it, nobody else can.

        Raises NoSpace when the disk cannot hold the rest, InvalidInput when `offset` is not where the last transfer ended
        or more is here than the blob shall have (then that is given up), Busy when it is arriving already.
        """
        with self._changing:
            if digest in self._arriving:
                raise Busy(f"blob {digest[:12]} is arriving on another stream", retry_after_seconds=1.0)
            present = self.present_bytes(digest)
            if present > size_bytes and not self.has(digest):
                self._partial(digest).unlink(missing_ok=True)
                raise InvalidInput(f"blob {digest[:12]} has {size_bytes} bytes, but {present} had come: send it from the start")
            if offset != present:
                raise InvalidInput(f"blob {digest[:12]} must continue at {present}, not at {offset}")
            if size_bytes - offset > (free := self.free_bytes()):
                raise NoSpace(f"blob {digest[:12]} needs {size_bytes - offset} bytes of disk, {free} are free", advice=_FREE_DISK)
            self._arriving.add(digest)
            return Arrival(self, digest, size_bytes, offset)

    def verify(self, digest: Digest) -> None:
        """Hash the stored bytes again. Raises NotFound, or Corrupt: then the blob is dropped, so the next push brings it anew."""
        path = self.folder / digest
        try:
            found = _sha256(path).hexdigest()
        except FileNotFoundError:
            raise NotFound(f"blob {digest[:12]} is not here") from None
        if found != digest:
            with contextlib.suppress(OSError):  # on a file system that is read-only by now; the next push says so
                path.unlink(missing_ok=True)
            raise Corrupt(
                f"blob {digest[:12]} changed on the device's disk; it was dropped",
                advice="deploy again: it will be sent anew",
                digest=digest,
            )

    def droppable_bytes(self, keep: Collection[Digest]) -> int:
        """What `retain` would free."""
        if self.frozen:
            return 0
        kept: set[str] = set(keep)
        found = 0
        with contextlib.suppress(OSError):  # what is dropped meanwhile, and a folder that has gone
            for path in self._files():
                if path.name not in kept | self._arriving:
                    found += path.stat().st_size
        return found

    def retain(self, keep: Iterable[Digest]) -> int:
        """Drop every blob and partial that is not in `keep`; returns the bytes freed. Raises NoSpace when the disk lets nothing go."""
        kept: set[str] = set(keep)
        freed = 0
        try:
            for path in self._files():
                with self._changing:
                    if path.name not in kept | self._arriving and path.is_file():
                        size_bytes = path.stat().st_size
                        path.unlink()
                        freed += size_bytes
        except OSError as error:
            raise NoSpace(f"blobs cannot be dropped: {disks.why(error)}", advice=_MAKE_ROOM) from error
        return freed

    def _files(self) -> list[Path]:
        return [*self.folder.iterdir(), *self._incoming.iterdir()]

    def _partial(self, digest: Digest) -> Path:
        return self._incoming / digest


class Arrival:
    """One blob on its way in: `catch_up`, `write` chunks in order, then `finish`. Leaving early keeps the partial, to be resumed.

    These three block: call them in an executor, one at a time.
    """

    def __init__(self, store: BlobStore, digest: Digest, size_bytes: int, offset: int) -> None:
        self._store = store
        self._digest = digest
        self._size_bytes = size_bytes
        self._path = store._partial(digest)
        self._hash = hashlib.sha256()
        self._file: io.FileIO | None = None
        self.received_bytes = offset

    def __enter__(self) -> Arrival:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._store._arriving.discard(self._digest)
        if self._file:
            self._file.close()

    def catch_up(self) -> None:
        """Open the partial, and hash what it holds. Raises NoSpace when not even an empty file fits."""
        try:
            self._file = self._store.disk.append(self._path)
            if self.received_bytes:
                self._hash = _sha256(self._path)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, chunk: bytes) -> None:
        """Raises InvalidInput when more comes than was declared, NoSpace when the disk is full (the partial is given up)."""
        assert self._file is not None
        if self.received_bytes + len(chunk) > self._size_bytes:
            self._give_up()
            raise InvalidInput(f"blob {self._digest[:12]} is longer than the {self._size_bytes} bytes declared")
        try:
            left = memoryview(chunk)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._failed(error) from error
        self._hash.update(chunk)
        self.received_bytes += len(chunk)

    def finish(self) -> None:
        """Keep the blob. Raises InvalidInput when bytes are missing (the partial stays), Corrupt when they are not what the digest says."""
        assert self._file is not None
        if self.received_bytes != self._size_bytes:
            raise InvalidInput(f"blob {self._digest[:12]} ended at {self.received_bytes} of {self._size_bytes} bytes")
        if self._hash.hexdigest() != self._digest:
            self._give_up()
            raise Corrupt(
                f"blob {self._digest[:12]} arrived changed",
                advice="verify the sender's copy: glmfleet model show NAME --verify",
                digest=self._digest,
            )
        try:
            os.fsync(self._file.fileno())
            self._path.rename(self._store.folder / self._digest)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> NoSpace:
        blob, why = self._digest[:12], disks.why(error)
        self._store.refused(error)
        if error.errno not in disks.FULL:  # the partial, if there is one, may be of use when it can be written to again
            return NoSpace(f"blob {blob} could not be kept: {why}", advice=_MAKE_ROOM)
        self._give_up()
        return NoSpace(f"{why} after {self.received_bytes} bytes of blob {blob}", advice=_FREE_DISK)

    def _give_up(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _sha256(path: Path) -> hashlib._Hash:
    value = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            value.update(chunk)
    return value
