"""What `glmfleet doctor` finds out about the home: whether all that is kept there can still be written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fleet.cli.findings import Finding
from fleet.home import VARIABLE, Home
from protos import disks
from protos.errors import FleetError
from protos.sizes import bytes_text

LOW_BYTES = 64 << 20  # less, and the store, a log or the next blob fills it soon
_ELSEWHERE = f"or choose another home with --home or {VARIABLE}"
_FULL_ADVICE = f"free some space there, {_ELSEWHERE}"
_WRITE_ADVICE = f"let this user write there, {_ELSEWHERE}"


@dataclass(frozen=True)
class Place:
    """One folder that is written to. `problem`: why it cannot be, one line, or ""."""

    name: str
    path: Path
    problem: str
    free_bytes: int


def storage_checks(home: Home) -> list[Finding]:
    """The home, what lies in it on other disks or with other rights, and the store, wherever it is."""
    try:
        running = home.running_coordinator()
    except FleetError:  # said of the coordinator
        running = None
    store = running.store if running is not None and running.store is not None else home.state_file
    places = look(home, store)
    folder_is_fine = not any(place.problem for place in places if place.path == store.parent)
    return [*place_checks(places), *(store_checks(store) if folder_is_fine else [])]


def look(home: Home, store: Path, problem_of: Callable[[Path], str] = disks.write_problem) -> list[Place]:
    """The home first, then those of its folders that exist, and the store's. `problem_of` tries to write. Blocks."""
    parts = {
        "home": home.path,
        "authority": home.authority,
        "coordinator": home.coordinator,
        "store": store.parent,
        "models": home.artifacts / "blobs" / "sha256",
        "downloads": home.downloads,
        "simulated devices": home.sim,
        "device": home.device,
        "device blobs": home.device / "blobs" / "incoming",
    }
    chosen = {path: name for name, path in parts.items() if name == "home" or path.exists()}  # each path once, by its last name
    return [Place(name, path, problem_of(path), disks.free_bytes(path)) for path, name in chosen.items()]


def place_checks(places: Sequence[Place]) -> list[Finding]:
    """The first is the home; of the others those are told that have a problem which it has not."""
    home, *others = places
    checks = [_check(home)]
    return checks + [one for place in others if not (one := _check(place)).ok and place.problem != home.problem]


def _check(place: Place) -> Finding:
    if place.problem:
        full = "full" in place.problem or "quota" in place.problem
        advice = _FULL_ADVICE if full else _WRITE_ADVICE
        return Finding(place.name, "fail", f"{place.path} cannot be written to: {place.problem}", advice)
    if place.free_bytes < LOW_BYTES:
        return Finding(place.name, "fail", f"{place.path}: only {bytes_text(place.free_bytes)} of disk are free", _FULL_ADVICE)
    return Finding(place.name, "ok", str(place.path))


def store_checks(file: Path) -> list[Finding]:
    """Whether the store of this home takes a transaction; nothing where all is well, or there is none yet."""
    if not file.exists():
        return []
    try:
        for path in (file, file.with_name(f"{file.name}-wal")):
            if path.exists():
                path.open("r+b").close()
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=0.2, isolation_level=None)) as store:
            store.execute("BEGIN IMMEDIATE")
            store.execute("ROLLBACK")
    except OSError as error:
        return [Finding("store", "fail", f"{file} cannot be written to: {disks.why(error)}", _WRITE_ADVICE)]
    except sqlite3.Error as error:
        if error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return []  # a coordinator writes to it at this moment
        return [Finding("store", "fail", f"{file}: {error}", "move the file away to start a new one: deployments and telemetry are in it")]
    return []
