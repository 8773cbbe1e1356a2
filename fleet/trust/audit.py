"""The audit log: one line of JSON for each step of a change, each carrying the hash of the line before."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from fleet.access import AuditEntry, AuditVerdict
from protos import disks
from protos.errors import FleetError, InvalidInput, NoSpace

FIRST = "0" * 64  # what the first line carries in the place of a hash
ROTATE_BYTES = 8 << 20  # a file that is longer is followed by another; the chain goes on through it
LONGEST_TEXT = 200  # characters of one value
RESTARTED = "the head of the log was not known"


@dataclass(frozen=True)
class Head:
    """The last line, and its number and hash. It is kept apart from the files, so that a tail that was cut off is missed."""

    sequence: int
    digest: str
    line: str


class HeadStore(Protocol):
    """Where the head is kept. Blocks."""

    def read(self) -> Head | None: ...

    def write(self, head: Head) -> None: ...


class AuditLog:
    """One process writes it. Calls block, and may come from any thread.

    The head is written first, with its line: what a full disk kept from the file is written there with the next line, and what a crash
    did, when it is opened again. A line that the head does not know of was written by somebody else.
    """

    def __init__(self, folder: Path, heads: HeadStore, clock: Callable[[], float] = time.time, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        """Raises InvalidInput, NoSpace when the folder cannot be made, and what the store of the head says."""
        self._folder = folder
        self._heads = heads
        self._clock = clock
        self._rotate_bytes = rotate_bytes
        self._lock = threading.Lock()
        self._behind = True  # the file may lack the head's line
        with _told(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._head = heads.read()
        if self._head is None and (last := self._last_line()) is not None:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self._head = Head(int(json.loads(last)["sequence"]), digest_of(last), last.decode())
            self.append(call="audit", outcome="done", who="coordinator", role="admin", detail=RESTARTED)
        with contextlib.suppress(FleetError):  # it is tried again with the next line
            self._complete()
            self._behind = False

    def append(self, **entry: Any) -> int:
        """A line with the fields of AuditEntry that are given; its number. It is on the disk afterwards. Raises NoSpace, InvalidInput, and
        what the store of the head says: then there is no such line, or it comes with the next."""
        with self._lock:
            sequence, previous = (self._head.sequence + 1, self._head.digest) if self._head else (1, FIRST)
            given = {name: shortened(value) for name, value in entry.items() if value not in ("", None, {})}
            line = json.dumps({"sequence": sequence, "time": round(self._clock(), 3), **given, "previous": previous})
            if self._behind:
                self._complete()
            head = Head(sequence, digest_of(line.encode()), line)
            self._heads.write(head)
            self._head, self._behind = head, True
            self._write(line, sequence)
            self._behind = False
            return sequence

    def entries(self, since: float = 0.0, most: int = 1000) -> list[AuditEntry]:
        """The last of those that were written since then (unix seconds), oldest first. A line that cannot be read is left out."""
        known = {field.name for field in fields(AuditEntry)}
        found: list[AuditEntry] = []
        with self._lock, _told(self._folder):
            for file in reversed(self._files()):
                part = []
                for line in file.read_bytes().splitlines():
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        plain = json.loads(line)
                        if float(plain["time"]) >= since:
                            part.append(_entry({name: value for name, value in plain.items() if name in known}))
                if not part:
                    break
                found = part + found
                if len(found) >= most:
                    break
        return found[-most:]

    def verify(self) -> AuditVerdict:
        """Reads all of it."""
        with self._lock, _told(self._folder):
            if self._behind:
                with contextlib.suppress(FleetError):  # what cannot be completed is told to be missing
                    self._complete()
            checked = _Chain()
            for file in self._files():
                if problem := checked.file(file):
                    return AuditVerdict(checked.sequence, problem, tuple(checked.restarts))
            head = self._heads.read()
            problem = _against_head(checked, head)
            return AuditVerdict(checked.sequence, problem, tuple(checked.restarts))

    def _complete(self) -> None:
        """Write the head's line where the file lacks it."""
        head = self._head
        if head is None:
            return
        file = self._newest()
        data = file.read_bytes() if file is not None else b""
        _, _, rest = data.rpartition(b"\n")
        if rest and file is not None and head.line.encode().startswith(rest):  # it was cut short
            os.truncate(file, len(data) - len(rest))
            data = data[: len(data) - len(rest)]
        last = data.rstrip(b"\n").rpartition(b"\n")[2]
        if digest_of(last) == head.digest:
            return
        written = json.loads(head.line)
        if (digest_of(last) if last else FIRST) == written["previous"]:
            self._write(head.line, head.sequence)

    def _write(self, line: str, sequence: int) -> None:
        with _told(self._folder):
            file = self._newest()
            if file is None or file.stat().st_size >= self._rotate_bytes:
                file = self._folder / f"{sequence:012d}.jsonl"
            new = not file.exists()
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                data = line.encode() + b"\n"
                while data:
                    data = data[os.write(descriptor, data) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                _sync_folder(self._folder)

    def _last_line(self) -> bytes | None:
        file = self._newest()
        return (file.read_bytes().rstrip(b"\n").rpartition(b"\n")[2] or None) if file is not None else None

    def _newest(self) -> Path | None:
        files = self._files()
        return files[-1] if files else None

    def _files(self) -> list[Path]:
        """Oldest first: each is named by the number of its first line."""
        return sorted(self._folder.glob("[0-9]*.jsonl"))


class _Chain:
    """What was read of the log so far, in order."""

    def __init__(self) -> None:
        self.sequence, self.digest = 0, FIRST
        self.restarts: list[int] = []

    def file(self, file: Path) -> str:
        """What is wrong with its first line that is not as it was written; "" when nothing is."""
        if file.name != f"{self.sequence + 1:012d}.jsonl":
            return f"line {self.sequence + 1} is missing: {file.name} is not the file that comes next"
        data = file.read_bytes()
        if not data.endswith(b"\n"):
            return f"{file.name} ends within a line"
        for number, line in enumerate(data[:-1].split(b"\n"), 1):
            if problem := self._line(line):
                return f"line {self.sequence + 1} ({file.name}:{number}) {problem}"
        return ""

    def _line(self, line: bytes) -> str:
        try:
            plain = json.loads(line)
            sequence, previous = plain["sequence"], plain["previous"]
        except (ValueError, KeyError, TypeError):
            return "is no line of this log"
        if previous != self.digest or sequence != self.sequence + 1:
            return "does not follow the one before: that, or this, was changed, moved or removed"
        self.sequence, self.digest = sequence, digest_of(line)
        if plain.get("detail") == RESTARTED:
            self.restarts.append(sequence)
        return ""


def _against_head(checked: _Chain, head: Head | None) -> str:
    if head is None:
        return "" if not checked.sequence else "nobody knows which line is the last: the database has no head of this log"
    if checked.sequence < head.sequence:
        return f"the log ends at line {checked.sequence}; {head.sequence} were written"
    if checked.sequence > head.sequence:
        return f"line {head.sequence + 1} was not written by the coordinator"
    return "" if checked.digest == head.digest else f"line {head.sequence} was changed"


def digest_of(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def shortened(value: Any) -> Any:
    """Bounded, so that no call makes a line of megabytes."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else f"{value[:LONGEST_TEXT]}…"
    if isinstance(value, Mapping):
        return {str(name)[:LONGEST_TEXT]: shortened(one) for name, one in list(value.items())[:32]}
    if isinstance(value, list | tuple):
        return [shortened(one) for one in value[:32]]
    return value if isinstance(value, int | float | None) else type(value).__name__


def _entry(plain: Mapping[str, Any]) -> AuditEntry:
    return AuditEntry(**{"role": "", "key_id": "", **plain})


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in disks.FULL:
            raise NoSpace(f"{disks.why(error)}, writing the audit log in {folder}", advice="free some space") from error
        raise InvalidInput(f"cannot use the audit log in {folder}: {disks.why(error)}", advice="run as the user who owns it") from error
