"""Imports that are broken off go on; what they kept is theirs alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from protos.manifest import Blob
from quantize.artifact.journal import FORGOTTEN_AFTER_SECONDS, journalled, open_journal, source_identity
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.importing.importer import import_model
from tests.support.checkpoints import TinyGlm, write_checkpoint

MODEL = TinyGlm(layers=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", MODEL)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def test_a_file_whose_name_is_no_text_is_told_apart_too(tmp_path: Path) -> None:
    before = source_identity(tmp_path)
    (tmp_path / os.fsdecode(b"caf\xe9.safetensors")).write_bytes(b"x")
    assert source_identity(tmp_path) != before


class Broken(BaseException):
    pass


def run(folder: Path, store: ArtifactStore, name: str = "tiny", *, until: str = "", block_size: int = 32, source: str = "s") -> list[str]:
    """Imports, broken off in part `until`; returns the parts that were written anew."""
    wrote: list[str] = []
    sizes: dict[str, int] = {}

    def progress(done: int, total: int, part: str) -> None:
        sizes.setdefault(part, 0)
        sizes[part] += 1
        if sizes[part] > 1 and part not in wrote:
            wrote.append(part)  # a part of the journal counts in one go
        if part == until:
            raise Broken

    with open_checkpoint(folder) as checkpoint:
        import_model(checkpoint, store, name, block_size=block_size, source=source, progress=progress)
    return wrote


def whole(folder: Path, tmp_path: Path) -> str:
    other = ArtifactStore(tmp_path / "other")
    run(folder, other)
    return other.load("tiny").digest


@pytest.mark.parametrize("part", ["positions", "layers.0", "layers.2", "head"])
def test_it_goes_on_behind_the_last_whole_part_and_gives_the_same_model(
    folder: Path, store: ArtifactStore, tmp_path: Path, part: str
) -> None:
    with pytest.raises(Broken):
        run(folder, store, until=part)
    assert store.list() == ()
    wrote = run(folder, store)
    order = ["embedding", "positions", "layers.0", "layers.1", "layers.2", "layers.3", "head"]
    assert wrote == [one for one in order[order.index(part) :] if one != "positions" or part == "positions"]
    assert store.verify("tiny").digest == whole(folder, tmp_path)
    assert not list(store.imports.iterdir())


def test_killed_outright_it_goes_on(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.importing.importer import import_model
def progress(done, total, part):
    if part == "layers.2":
        os.kill(os.getpid(), signal.SIGKILL)
with open_checkpoint(Path({str(folder)!r})) as checkpoint:
    import_model(checkpoint, ArtifactStore(Path({str(tmp_path / "store")!r})), "tiny", block_size=32, source="s", progress=progress)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[3])
    assert killed.returncode == -signal.SIGKILL
    assert run(folder, ArtifactStore(tmp_path / "store")) == ["layers.2", "layers.3", "head"]
    assert store.verify("tiny").digest == whole(folder, tmp_path)
    assert not [path for path in store.blob_folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("changed", ["source", "block_size"])
def test_another_source_or_option_begins_anew(folder: Path, store: ArtifactStore, changed: str) -> None:
    with pytest.raises(Broken):
        run(folder, store, until="layers.2")
    other = run(folder, store, source="t") if changed == "source" else run(folder, store, block_size=64)
    assert other[0] == "embedding"


def test_a_kept_part_that_is_damaged_is_written_again(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(Broken):
        run(folder, store, until="layers.3")
    journal = next(store.imports.glob("*/parts.jsonl"))
    digest = next(line for line in journal.read_text().splitlines() if "layers.1" in line).split('"digest": "')[1][:64]
    blob = store.blob_folder / digest
    data = bytearray(blob.read_bytes())
    data[99] ^= 1
    blob.write_bytes(data)
    assert "layers.1" in run(folder, store)
    assert store.verify("tiny").digest == whole(folder, tmp_path)


def test_a_torn_journal_is_read_as_far_as_it_goes(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(Broken):
        run(folder, store, until="layers.3")
    journal = next(store.imports.glob("*/parts.jsonl"))
    journal.write_bytes(journal.read_bytes()[:-30] + b"\xff\x00")
    run(folder, store)
    assert store.verify("tiny").digest == whole(folder, tmp_path)


def test_what_is_noted_behind_a_torn_line_can_be_read(tmp_path: Path, store: ArtifactStore) -> None:
    rows = np.zeros((1, 1))
    for part in ("embedding", "layers.0"):
        with suppress(Broken), open_journal(tmp_path, "a") as journal:
            assert journal is not None
            journal.add(part, store.put(part.encode()), rows)
            lines = next(tmp_path.glob("*/parts.jsonl"))
            lines.write_bytes(lines.read_bytes() + b'{"part": "lay')
            raise Broken
    with open_journal(tmp_path, "a") as journal:
        assert journal is not None
        assert list(journal.read(store.blob_folder).blobs) == ["embedding", "layers.0"]


def test_what_a_journal_names_is_kept_for_a_week(folder: Path, store: ArtifactStore) -> None:
    with pytest.raises(Broken):
        run(folder, store, until="layers.2")
    kept = journalled(store.imports)
    assert len(kept) == 4
    store.collect()
    assert {path.name for path in store.blob_folder.iterdir()} == kept
    assert journalled(store.imports, time.time() + FORGOTTEN_AFTER_SECONDS + 60) == set()
    assert not list(store.imports.iterdir())
    store.collect()
    assert not list(store.blob_folder.iterdir())


def test_two_at_once_do_not_share_a_journal(tmp_path: Path) -> None:
    with open_journal(tmp_path, "a") as first, open_journal(tmp_path, "a") as second, open_journal(tmp_path, "b") as other:
        assert first is not None
        assert other is not None
        assert second is None
    assert not list(tmp_path.iterdir())


def test_rows_are_given_back_exactly(tmp_path: Path, store: ArtifactStore) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 7))
    blob: Blob = store.put(b"x")
    with suppress(Broken), open_journal(tmp_path, "a") as journal:
        assert journal is not None
        journal.add("embedding", blob, rows)
        journal.add("layers.0.attention", store.put(b"y"))
        raise Broken
    with open_journal(tmp_path, "a") as journal:
        assert journal is not None
        found = journal.read(store.blob_folder)
        assert found.blobs == {"embedding": blob}  # the layer is not whole
        assert found.hidden is not None
        assert np.array_equal(found.hidden, rows)


def test_a_source_is_told_by_sizes_times_and_edges(folder: Path) -> None:
    path = folder / "model.safetensors"
    seen = {source_identity(folder)}
    assert source_identity(folder) in seen
    data = bytearray(path.read_bytes())
    status = path.stat()
    for change in ("byte", "time", "length", "new file"):
        if change == "byte":  # in the header, the time put back
            data[20] ^= 1
            path.write_bytes(data)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        elif change == "time":
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        elif change == "length":
            path.write_bytes(data + b"x")
        else:
            (folder / "more.json").write_text("{}")
        identity = source_identity(folder)
        assert identity not in seen, change
        seen.add(identity)
    assert source_identity(path) not in seen
