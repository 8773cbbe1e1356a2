"""The blob store: nothing is kept that its digest does not vouch for, and nothing is left over."""

from __future__ import annotations

import errno
import io
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from device.blobs import RESERVE_BYTES, BlobStore
from protos.errors import Busy, Corrupt, InvalidInput, NoSpace, NotFound
from protos.ids import Digest, digest_of
from tests.support.disks import fill, needs_mounts, read_only, small_disk

DATA = bytes(range(256)) * 1000
DIGEST = digest_of(DATA)
HALF = len(DATA) // 2


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def put(store: BlobStore, data: bytes, *, digest: Digest | None = None, offset: int = 0, size: int | None = None) -> None:
    """The bytes of `data` from `offset` on, in two chunks."""
    middle = offset + (len(data) - offset) // 2
    with store.arrive(digest or digest_of(data), len(data) if size is None else size, offset) as arrival:
        arrival.catch_up()
        arrival.write(data[offset:middle])
        arrival.write(data[middle:])
        arrival.finish()


def cut(store: BlobStore, count: int = HALF) -> None:
    with store.arrive(DIGEST, len(DATA), 0) as arrival:
        arrival.catch_up()
        arrival.write(DATA[:count])


def files(store: BlobStore) -> list[str]:
    return sorted(path.name for path in store.folder.parent.rglob("*") if path.is_file())


def test_a_blob_arrives_and_is_verified(store: BlobStore) -> None:
    assert not store.has(DIGEST)
    assert store.present_bytes(DIGEST) == 0
    put(store, DATA)
    assert store.has(DIGEST)
    assert store.present_bytes(DIGEST) == len(DATA)
    assert (store.folder / DIGEST).read_bytes() == DATA
    store.verify(DIGEST)
    assert files(store) == [DIGEST]


def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    put(store, b"")
    store.verify(digest_of(b""))


def test_a_cut_transfer_goes_on_where_it_ended_even_after_a_restart(store: BlobStore) -> None:
    cut(store)
    again = BlobStore(store.folder.parent)
    assert not again.has(DIGEST)
    assert again.present_bytes(DIGEST) == HALF
    put(again, DATA, offset=HALF)
    again.verify(DIGEST)
    assert files(again) == [DIGEST]


def test_all_bytes_but_the_end_of_it(store: BlobStore) -> None:
    cut(store, len(DATA))
    assert not store.has(DIGEST)
    put(store, DATA, offset=len(DATA))
    store.verify(DIGEST)


@pytest.mark.parametrize("offset", [0, HALF - 1, HALF + 1, len(DATA)])
def test_it_must_go_on_exactly_there(store: BlobStore, offset: int) -> None:
    cut(store)
    with pytest.raises(InvalidInput, match=f"continue at {HALF}"):
        put(store, DATA, offset=offset)
    assert store.present_bytes(DIGEST) == HALF


def test_two_at_once(store: BlobStore) -> None:
    cut(store)
    with store.arrive(DIGEST, len(DATA), HALF):
        with pytest.raises(Busy) as busy:
            store.arrive(DIGEST, len(DATA), HALF)
        put(store, b"another")
    assert busy.value.retry_after_seconds > 0
    put(store, DATA, offset=HALF)
    store.verify(DIGEST)


def test_shorter_keeps_the_partial(store: BlobStore) -> None:
    with pytest.raises(InvalidInput, match=f"ended at {HALF}"):
        put(store, DATA[:HALF], digest=DIGEST, size=len(DATA))
    assert store.present_bytes(DIGEST) == HALF


def test_longer_leaves_nothing(store: BlobStore) -> None:
    with pytest.raises(InvalidInput, match="longer"):
        put(store, DATA + b"x", digest=DIGEST, size=len(DATA))
    assert files(store) == []
    put(store, DATA)


def test_more_here_than_declared_is_given_up(store: BlobStore) -> None:
    with store.arrive(DIGEST, 10 * len(DATA), 0) as arrival:  # the size was a lie
        arrival.catch_up()
        arrival.write(DATA + DATA)
    with pytest.raises(InvalidInput, match="from the start"):
        put(store, DATA, offset=2 * len(DATA))
    put(store, DATA)
    store.verify(DIGEST)


@pytest.mark.parametrize("offset", [0, HALF])
def test_a_flipped_bit_leaves_nothing(store: BlobStore, offset: int) -> None:
    flipped = bytearray(DATA)
    flipped[HALF + 5] ^= 1
    if offset:
        cut(store)
    with pytest.raises(Corrupt):
        put(store, bytes(flipped), digest=DIGEST, offset=offset)
    assert files(store) == []
    put(store, DATA)


def test_what_changed_in_the_partial_is_found(store: BlobStore) -> None:
    cut(store)
    partial = store.folder.parent / "incoming" / DIGEST
    partial.write_bytes(b"x" + partial.read_bytes()[1:])
    with pytest.raises(Corrupt):
        put(store, DATA, offset=HALF)
    assert files(store) == []


def test_what_changed_on_disk_is_dropped(store: BlobStore) -> None:
    with pytest.raises(NotFound):
        store.verify(DIGEST)
    put(store, DATA)
    path = store.folder / DIGEST
    path.write_bytes(DATA[:-1])
    with pytest.raises(Corrupt):
        store.verify(DIGEST)
    assert files(store) == []


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_what_the_disk_cannot_hold_is_refused_before_it_comes(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(store)
    free = RESERVE_BYTES + len(DATA) - HALF
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(free, 0, free - 1))
    with pytest.raises(NoSpace) as refused:
        put(store, DATA, offset=HALF)
    assert refused.value.advice
    assert store.present_bytes(DIGEST) == HALF
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(free, 0, free))
    put(store, DATA, offset=HALF)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(1, 0, 1))
    assert store.free_bytes() == 0


class _FullDisk(io.FileIO):
    """Takes some bytes of a chunk, then none: as a real one does, and again at the closing if something is left to write."""

    left = 300

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = min(self.left, len(data))
        self.left -= count
        return super().write(data[:count])


def test_a_disk_that_fills_up_is_left_as_it_was(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("device.blobs.io.FileIO", _FullDisk)
        with pytest.raises(NoSpace, match="full after 0 bytes"):
            put(store, DATA)
    assert files(store) == []
    put(store, DATA)  # not Busy: the stream before has given it back
    store.verify(DIGEST)


def test_short_writes_lose_nothing(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(io.FileIO):
        def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
            return super().write(data[:1000])

    monkeypatch.setattr("device.blobs.io.FileIO", Slow)
    put(store, DATA)
    store.verify(DIGEST)


def test_a_disk_that_is_full_at_the_end(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(NoSpace):
            put(store, DATA)
    assert files(store) == []
    put(store, DATA)


def test_another_failure_of_the_disk_is_said(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("device.blobs.io.FileIO", fail)
        with pytest.raises(NoSpace, match="could not be kept: the disk does not work"):
            put(store, DATA)
        assert "the disk does not work" in store.problem
    put(store, DATA)


# Real file systems that are full or read-only. An agent serves what it has, and says what is wrong.


@needs_mounts
def test_a_full_disk_is_a_problem_until_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path, RESERVE_BYTES + (1 << 20)) as disk:
        store = BlobStore(disk / "blobs")
        assert store.problem == ""
        fill(disk / "others")
        store.look()
        assert "the disk is full" in store.problem
        assert not store.frozen
        with pytest.raises(NoSpace):
            put(store, DATA)
        (disk / "others").write_bytes(bytes(2 << 20))
        store.look()
        assert store.problem.endswith("the disk is full, 15.0 MiB are free, and 16.0 MiB are left to the system")
        (disk / "others").unlink()
        store.look()
        assert store.problem == ""
        put(store, DATA)


@needs_mounts
def test_what_is_kept_is_served_from_a_file_system_that_became_read_only(tmp_path: Path) -> None:
    with small_disk(tmp_path, 64 << 20) as disk:
        put(BlobStore(disk / "blobs"), DATA)
        read_only(disk)
        store = BlobStore(disk / "blobs")
        assert "the file system is read-only" in store.problem
        assert (store.frozen, store.droppable_bytes([])) == (True, 0)
        store.verify(DIGEST)
        for refused in (lambda: put(store, b"more"), lambda: store.retain([])):
            with pytest.raises(NoSpace, match="read-only"):
                refused()
        read_only(disk, False)
        store.look()
        assert store.problem == ""
        assert (store.frozen, store.droppable_bytes([])) == (False, len(DATA))


def test_a_folder_that_has_gone_is_a_problem_and_no_defect(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "card" / "blobs")
    shutil.rmtree(tmp_path / "card")
    store.look()
    assert store.problem.endswith("it is not there")
    assert (store.free_bytes(), store.droppable_bytes([])) == (0, 0)
    with pytest.raises(NoSpace):
        put(store, DATA)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInput, match="cannot be made: it is no folder"):
        BlobStore(tmp_path / "file" / "blobs")


def test_a_quota_is_told_from_a_full_disk(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def used_up(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", used_up)  # as over NFS, which says it last
    store.look()
    assert "the quota is used up" in store.problem
    assert not store.frozen  # what is dropped counts against it no more
    with pytest.raises(NoSpace, match="the quota is used up"):
        put(store, DATA)


def test_retain_drops_what_is_not_named_and_not_arriving(store: BlobStore) -> None:
    put(store, DATA)
    put(store, b"kept")
    with store.arrive(digest_of(b"arriving"), 8, 0) as first:
        first.catch_up()
        first.write(b"arri")
    with store.arrive(digest_of(b"dropped"), 7, 0) as second:
        second.catch_up()
        second.write(b"drop")
    with store.arrive(digest_of(b"arriving"), 8, 4) as arrival:
        assert store.droppable_bytes([digest_of(b"kept")]) == len(DATA) + 4
        assert store.retain([digest_of(b"kept")]) == len(DATA) + 4
        arrival.catch_up()
        arrival.write(b"ving")
        arrival.finish()
    assert files(store) == sorted([digest_of(b"kept"), digest_of(b"arriving")])
    assert store.retain([]) == 12
    assert files(store) == []
