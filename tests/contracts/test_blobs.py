"""What an agent may rely on in its blob store, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from device.blobs import Blobs, BlobStore
from protos.errors import Busy, Corrupt, InvalidInput, NoSpace, NotFound
from protos.ids import Digest, digest_of
from sim_devices.hollow.blobs import HollowBlobs

DATA = bytes(range(256)) * 1000
DIGEST = digest_of(DATA)
HALF = len(DATA) // 2

Make = Callable[[int], Blobs]  # of a store with so many bytes free


def on_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(free_bytes: int) -> Blobs:
        store = BlobStore(folder)

        def free() -> int:
            return free_bytes - sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

        monkeypatch.setattr(store, "free_bytes", free)
        return store

    return make


def hollow(_folder: Path, _monkeypatch: pytest.MonkeyPatch) -> Make:
    return HollowBlobs


@pytest.fixture(params=[on_disk, hollow])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    made: Make = request.param(tmp_path, monkeypatch)
    return made


def put(
    store: Blobs, data: bytes, *, digest: Digest | None = None, offset: int = 0, size: int | None = None, stop: int | None = None
) -> None:
    with store.arrive(digest or digest_of(data), len(data) if size is None else size, offset) as arrival:
        arrival.catch_up()
        arrival.write(data[offset : stop or len(data)])
        if stop is None:
            arrival.finish()


def test_what_arrives_whole_is_held(make: Make) -> None:
    store = make(1 << 20)
    assert (store.has(DIGEST), store.present_bytes(DIGEST)) == (False, 0)
    put(store, DATA)
    assert (store.has(DIGEST), store.present_bytes(DIGEST)) == (True, len(DATA))
    store.verify(DIGEST)


def test_a_cut_transfer_goes_on_where_it_ended(make: Make) -> None:
    store = make(1 << 20)
    put(store, DATA, stop=HALF)
    assert (store.has(DIGEST), store.present_bytes(DIGEST)) == (False, HALF)
    with pytest.raises(InvalidInput, match=f"continue at {HALF}"):
        put(store, DATA)
    put(store, DATA, offset=HALF)
    assert store.has(DIGEST)


def test_changed_bytes_are_not_kept(make: Make) -> None:
    store = make(1 << 20)
    with pytest.raises(Corrupt):
        put(store, b"x" + DATA[1:], digest=DIGEST)
    assert (store.has(DIGEST), store.present_bytes(DIGEST)) == (False, 0)
    put(store, DATA)
    assert store.has(DIGEST)


def test_a_changed_beginning_shows_at_the_end_of_a_resumed_transfer(make: Make) -> None:
    store = make(1 << 20)
    put(store, b"x" + DATA[1:], digest=DIGEST, stop=HALF)
    with pytest.raises(Corrupt):
        put(store, DATA, offset=HALF)
    assert not store.has(DIGEST)


def test_too_much_and_too_little_are_refused(make: Make) -> None:
    store = make(1 << 20)
    with pytest.raises(InvalidInput, match="longer"):
        put(store, DATA, size=HALF)
    assert store.present_bytes(DIGEST) == 0
    with store.arrive(DIGEST, len(DATA), 0) as arrival:
        arrival.catch_up()
        arrival.write(DATA[:HALF])
        with pytest.raises(InvalidInput, match=f"ended at {HALF}"):
            arrival.finish()


def test_one_arrival_at_a_time(make: Make) -> None:
    store = make(1 << 20)
    with store.arrive(DIGEST, len(DATA), 0), pytest.raises(Busy):
        store.arrive(DIGEST, len(DATA), 0)
    with store.arrive(DIGEST, len(DATA), store.present_bytes(DIGEST)):
        pass


def test_what_does_not_fit_is_refused_before_it_is_sent(make: Make) -> None:
    store = make(len(DATA) + 10)
    put(store, DATA)
    assert store.free_bytes() == 10
    with pytest.raises(NoSpace):
        put(store, b"y" * 11)
    put(store, b"y" * 10)


def test_retain_drops_the_rest_and_says_how_much(make: Make) -> None:
    store = make(1 << 20)
    put(store, DATA)
    put(store, b"second")
    put(store, b"third", stop=3)
    assert store.droppable_bytes({DIGEST}) == len(b"second") + 3
    assert store.droppable_bytes(()) == len(DATA) + len(b"second") + 3
    assert store.retain({DIGEST}) == len(b"second") + 3
    assert store.droppable_bytes({DIGEST}) == 0
    assert store.has(DIGEST)
    assert not store.has(digest_of(b"second"))
    with pytest.raises(NotFound):
        store.verify(digest_of(b"second"))
