"""A store that verifies what arrives and keeps only its digest: a thousand devices hold a model, and no byte of it is on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from protos.errors import Busy, Corrupt, InvalidInput, NoSpace, NotFound
from protos.ids import Digest

STORAGE_BYTES = 32 << 30  # what each device says it has; sizes are counted against it


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class HollowBlobs:
    """Implements device.blobs.Blobs. Of a blob that is cut on its way the hash so far is kept, so the next transfer goes on from there."""

    folder = Path()  # nothing is ever opened in it
    problem = ""
    frozen = False

    def __init__(self, storage_bytes: int = STORAGE_BYTES) -> None:
        self._storage_bytes = storage_bytes
        self._whole: dict[Digest, int] = {}
        self._partial: dict[Digest, HollowArrival] = {}
        self._arriving: set[Digest] = set()

    def look(self) -> None:
        """There is no disk to look at."""

    def has(self, digest: Digest) -> bool:
        return digest in self._whole

    def present_bytes(self, digest: Digest) -> int:
        partial = self._partial.get(digest)
        return self._whole.get(digest, partial.received_bytes if partial else 0)

    def free_bytes(self) -> int:
        # Lists: blobs are finished in other threads.
        partials = sum(partial.received_bytes for partial in list(self._partial.values()))
        return max(0, self._storage_bytes - sum(list(self._whole.values())) - partials)

    def arrive(self, digest: Digest, size_bytes: int, offset: int) -> HollowArrival:
        """As BlobStore.arrive."""
        if digest in self._arriving:
            raise Busy(f"blob {digest[:12]} is arriving on another stream", retry_after_seconds=1.0)
        present = self.present_bytes(digest)
        if present > size_bytes and not self.has(digest):
            del self._partial[digest]
            raise InvalidInput(f"blob {digest[:12]} has {size_bytes} bytes, but {present} had come: send it from the start")
        if offset != present:
            raise InvalidInput(f"blob {digest[:12]} must continue at {present}, not at {offset}")
        if size_bytes - offset > (free := self.free_bytes()):
            raise NoSpace(f"blob {digest[:12]} needs {size_bytes - offset} bytes of disk, {free} are free")
        self._arriving.add(digest)
        arrival = self._partial.setdefault(digest, HollowArrival(self, digest))
        arrival.size_bytes = size_bytes
        return arrival

    def verify(self, digest: Digest) -> None:
        """It was verified when it came, and there is nothing that could have changed since. Raises NotFound."""
        if digest not in self._whole:
            raise NotFound(f"blob {digest[:12]} is not here")

    def droppable_bytes(self, keep: Collection[Digest]) -> int:
        kept = {*keep, *self._arriving}
        whole = sum(size for digest, size in list(self._whole.items()) if digest not in kept)
        return whole + sum(arrival.received_bytes for digest, arrival in list(self._partial.items()) if digest not in kept)

    def retain(self, keep: Iterable[Digest]) -> int:
        kept = {*keep, *self._arriving}
        before = self.free_bytes()
        self._whole = {digest: size for digest, size in list(self._whole.items()) if digest in kept}
        self._partial = {digest: arrival for digest, arrival in list(self._partial.items()) if digest in kept}
        return self.free_bytes() - before


class HollowArrival:
    """Implements device.blobs.Arriving."""

    def __init__(self, store: HollowBlobs, digest: Digest) -> None:
        self._store = store
        self._digest = digest
        self._hash: _Hash = hashlib.sha256()
        self.size_bytes = 0
        self.received_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._store._arriving.discard(self._digest)

    def catch_up(self) -> None:
        """The hash so far is here already."""

    def write(self, chunk: bytes) -> None:
        if self.received_bytes + len(chunk) > self.size_bytes:
            self._store._partial.pop(self._digest, None)
            raise InvalidInput(f"blob {self._digest[:12]} is longer than the {self.size_bytes} bytes declared")
        self._hash.update(chunk)
        self.received_bytes += len(chunk)

    def finish(self) -> None:
        if self.received_bytes != self.size_bytes:
            raise InvalidInput(f"blob {self._digest[:12]} ended at {self.received_bytes} of {self.size_bytes} bytes")
        self._store._partial.pop(self._digest, None)
        if self._hash.hexdigest() != self._digest:
            raise Corrupt(
                f"blob {self._digest[:12]} arrived changed",
                advice="verify the sender's copy: glmfleet model show NAME --verify",
                digest=self._digest,
            )
        self._store._whole[self._digest] = self.size_bytes
