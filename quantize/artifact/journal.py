"""What an import has written so far, so that one that was broken off goes on from there: after Ctrl-C, kill -9 or a power cut."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protos.errors import InvalidInput
from protos.ids import Digest, parse_digest
from protos.manifest import Blob
from quantize.files import StagedFile, no_space_as_ours

Doubles = npt.NDArray[np.float64]

FORGOTTEN_AFTER_SECONDS = 7 * 86_400.0
_EDGE_BYTES = 1 << 20


def source_identity(path: Path) -> str:
    """Names a checkpoint file or folder without reading all of it: of each file its name, size, time of change, first and last MiB.

    A file that is edited gets another size or time, one that is replaced with both kept another header (safetensors, GGUF) or directory
    at its end (zip). What is edited within a weight, size and time kept on purpose, is taken for the same.
    """
    digest = hashlib.sha256()
    files = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith(".")) if path.is_dir() else [path]
    for file in files:
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
        with file.open("rb") as opened:
            digest.update(opened.read(_EDGE_BYTES))
            opened.seek(max(status.st_size - _EDGE_BYTES, 0))
            digest.update(opened.read(_EDGE_BYTES))
    return digest.hexdigest()


def program_identity() -> str:
    """Another version of the importer may write other bytes for the same checkpoint, so this is part of a journal's name."""
    digest = hashlib.sha256(np.__version__.encode())
    for module in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Whole:
    """The parts that are whole, in order, and the calibration's hidden rows after them (None before the first layer)."""

    blobs: dict[str, Blob]
    hidden: Doubles | None


@dataclass(frozen=True)
class _Entry:
    """One line: a part's blob, and the file of the hidden rows after it ("": none)."""

    part: str
    digest: Digest
    size_bytes: int
    rows: str


class Journal:
    """A folder below a store's `imports`: one line for each part, and the hidden rows after the last; made by `open_journal`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines = folder / "parts.jsonl"

    def read(self, blob_folder: Path) -> Whole:
        """What can be believed: parts whose blobs are here with the bytes that their digests say, up to the last with its hidden rows."""
        blobs: dict[str, Blob] = {}
        whole = Whole({}, None)
        for entry in _entries(self._lines):
            blob = Blob(entry.digest, entry.size_bytes)
            if not _is_here(blob_folder / blob.digest, blob):
                break
            blobs[entry.part] = blob
            if entry.rows and (hidden := _load(self._folder / entry.rows)) is not None:
                whole = Whole(dict(blobs), hidden)
        return whole

    def mend(self) -> None:
        """Drops what a kill or a power cut left of a line: what is noted next must stand on a line of its own."""
        whole = "".join(_line(entry) for entry in _entries(self._lines))
        if self._lines.exists() and self._lines.read_text(errors="replace") != whole:
            self._lines.write_text(whole)

    def add(self, part: str, blob: Blob, hidden: Doubles | None = None) -> None:
        """Notes a part, after its blob is on the disk. With `hidden`, an import may go on behind it."""
        rows = ""
        with no_space_as_ours(self._folder):
            if hidden is not None:
                rows = f"{part}.npy"
                data = io.BytesIO()
                np.save(data, hidden)
                with StagedFile(self._folder) as staged:
                    staged.write(data.getbuffer())
                    staged.commit(self._folder / rows)
            with self._lines.open("a") as file:
                file.write(_line(_Entry(part, blob.digest, blob.size_bytes, rows)))
        if rows:
            for older in self._folder.glob("*.npy"):
                if older.name != rows:
                    older.unlink()


@contextmanager
def open_journal(imports: Path, *identity: str) -> Iterator[Journal | None]:
    """The journal of this source, program and options; removed when the block ends, unless it is broken off (a full disk, Ctrl-C, a kill).

    None while another import holds it.
    """
    folder = imports / hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        journal = Journal(folder)
        journal.mend()
        try:
            yield journal
        except InvalidInput:  # another start would end there too
            _remove(folder)
            raise
        _remove(folder)


def journalled(imports: Path, now: float | None = None) -> set[Digest]:
    """Digests that journals name: blobs to be kept. A journal that nobody touched for a week is removed."""
    kept: set[Digest] = set()
    for folder in imports.glob("*/"):
        lines = folder / "parts.jsonl"
        changed = max((file.stat().st_mtime for file in (folder, lines) if file.exists()), default=0.0)
        if (time.time() if now is None else now) - changed > FORGOTTEN_AFTER_SECONDS:
            _remove(folder)
        else:
            kept |= {entry.digest for entry in _entries(lines)}
    return kept


def _remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink(missing_ok=True)
    folder.rmdir()


def _line(entry: _Entry) -> str:
    return json.dumps(asdict(entry)) + "\n"


def _entries(lines: Path) -> Iterator[_Entry]:
    """Up to the first line that is torn: whoever wrote it was killed."""
    if not lines.exists():
        return
    for line in lines.read_text(errors="replace").splitlines():
        try:
            plain = json.loads(line)
            yield _Entry(str(plain["part"]), parse_digest(plain["digest"]), int(plain["size_bytes"]), Path(plain["rows"]).name)
        except (ValueError, KeyError, TypeError):
            return


def _is_here(path: Path, blob: Blob) -> bool:
    if not path.is_file() or path.stat().st_size != blob.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == blob.digest


def _load(rows: Path) -> Doubles | None:
    try:
        hidden = np.load(rows, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return hidden if hidden.dtype == np.float64 and hidden.ndim == 2 else None
