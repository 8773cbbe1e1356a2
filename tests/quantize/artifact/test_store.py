from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from protos.errors import Busy, Corrupt, InvalidInput, NotFound
from protos.ids import digest_of
from protos.manifest import Blob, Manifest, ModelConfig, Provenance, Quantization, TextFile
from quantize.artifact.store import ArtifactStore

_CONFIG = ModelConfig("GlmForCausalLM", 64, 1, 4, 2, 16, 96, 272, 1e-5, 1e4, 8, False, True, 64, (1,))


def _manifest(*blobs: Blob) -> Manifest:
    files = tuple(TextFile(f"file{number}", blob) for number, blob in enumerate(blobs))
    return Manifest(_CONFIG, Quantization(8, 32, True), Provenance("test", "", ""), (), files)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def _blobs(store: ArtifactStore) -> set[str]:
    return {path.name for path in store.blob_folder.iterdir()}


def test_what_is_saved_is_listed_loaded_and_verified(store: ArtifactStore) -> None:
    manifest = _manifest(store.put(b"one"), store.put(b"two"))
    store.save("b", manifest)
    store.save("a.1-x_y", manifest)
    assert store.list() == ("a.1-x_y", "b")
    assert store.load("b") == store.verify("b") == manifest


def test_a_second_store_on_the_folder_sees_the_same(store: ArtifactStore, tmp_path: Path) -> None:
    store.save("a", _manifest(store.put(b"one")))
    assert ArtifactStore(tmp_path / "store").list() == ("a",)


def test_a_blob_that_is_there_is_not_rewritten(store: ArtifactStore) -> None:
    first = store.put(b"one")
    before = store.blob_path(first.digest).stat()
    assert store.put(b"one") == first == Blob(digest_of(b"one"), 3)
    after = store.blob_path(first.digest).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_damaged_blob_is_replaced(store: ArtifactStore) -> None:
    blob = store.put(b"one")
    store.blob_path(blob.digest).write_bytes(b"0ne")
    store.put(b"one")
    assert store.blob_path(blob.digest).read_bytes() == b"one"


def test_an_uncommitted_blob_leaves_nothing(store: ArtifactStore) -> None:
    with store.new_blob() as writer:
        writer.write(b"one")
    assert not _blobs(store)


def test_removing_frees_what_no_other_model_uses(store: ArtifactStore) -> None:
    shared, own, other = store.put(b"shared"), store.put(b"own"), store.put(b"other")
    store.save("a", _manifest(shared, own))
    store.save("b", _manifest(shared, other))
    assert store.remove("a") == 3
    assert _blobs(store) == {shared.digest, other.digest}
    assert store.list() == ("b",)
    assert store.remove("b") == 11
    assert not _blobs(store)


def test_collecting_frees_what_was_broken_off(store: ArtifactStore) -> None:
    store.put(b"orphan")
    kept = store.put(b"kept")
    store.save("a", _manifest(kept))
    assert store.collect() == 6
    assert _blobs(store) == {kept.digest}


def test_nothing_is_removed_under_an_import(store: ArtifactStore, tmp_path: Path) -> None:
    store.save("a", _manifest(store.put(b"one")))
    with store.importing():
        with pytest.raises(Busy):
            store.remove("a")
        with ArtifactStore(tmp_path / "store").importing():
            pass
    assert store.list() == ("a",)
    store.remove("a")


def test_one_flipped_bit_is_found_and_the_part_named(store: ArtifactStore) -> None:
    blob = store.put(b"one")
    store.save("a", _manifest(store.put(b"zero"), blob))
    store.blob_path(blob.digest).write_bytes(b"onf")
    with pytest.raises(Corrupt, match="model a: file1 is not what its digest says") as caught:
        store.verify("a")
    assert "import the model again" in caught.value.advice


@pytest.mark.parametrize(("data", "says"), [(None, "file0 is missing"), (b"on", "file0 has 2 bytes instead of 3")])
def test_a_missing_or_short_blob_is_named(store: ArtifactStore, data: bytes | None, says: str) -> None:
    blob = store.put(b"one")
    store.save("a", _manifest(blob))
    store.blob_path(blob.digest).unlink()
    if data is not None:
        store.blob_path(blob.digest).write_bytes(data)
    with pytest.raises(Corrupt, match=says):
        store.verify("a")


def test_a_manifest_without_its_blobs_is_not_saved(store: ArtifactStore) -> None:
    with pytest.raises(Corrupt, match="is missing"):
        store.save("a", _manifest(Blob(digest_of(b"absent"), 6)))
    assert store.list() == ()


def test_an_unknown_model_names_those_there_are(store: ArtifactStore) -> None:
    for call in (store.load, store.remove, store.verify):
        with pytest.raises(NotFound) as caught:
            call("a")
        assert "model pull" in caught.value.advice
    store.save("b", _manifest(store.put(b"one")))
    with pytest.raises(NotFound) as caught:
        store.load("a")
    assert caught.value.advice == "models here: b"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "A", "-a", "a" * 65, "a\n", "ä"])
def test_a_name_that_cannot_be(store: ArtifactStore, name: str) -> None:
    for call in (store.load, store.remove, store.check_name):
        with pytest.raises(InvalidInput, match="not a model name"):
            call(name)


def test_a_damaged_manifest_is_told_and_can_be_removed(store: ArtifactStore, tmp_path: Path) -> None:
    store.save("a", _manifest(store.put(b"one")))
    store.save("b", _manifest(store.put(b"two")))
    path = tmp_path / "store" / "models" / "a.json"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(Corrupt, match="model a: not a manifest") as caught:
        store.load("a")
    assert "model rm a" in caught.value.advice
    with pytest.raises(Corrupt, match="model a"):
        store.collect()  # whose blobs they are cannot be known: none is freed
    assert len(_blobs(store)) == 2
    assert store.remove("a") == 3
    assert store.load("b")


def test_replacing_keeps_one_manifest(store: ArtifactStore) -> None:
    first = _manifest(store.put(b"one"))
    store.save("a", first)
    second = replace(first, provenance=Provenance("again", "", ""))
    store.save("a", second)
    assert store.load("a") == second
    assert store.list() == ("a",)


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInput, match="cannot write to"):
        ArtifactStore(tmp_path / "file" / "store")
