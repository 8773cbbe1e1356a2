"""What doctor says of disks: on real file systems that are full or read-only, and of every folder below the home."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fleet.cli.doctor_storage import LOW_BYTES, Place, look, place_checks, store_checks
from fleet.home import Home
from fleet.store.database import Store
from tests.support.command import Command
from tests.support.disks import fill, needs_mounts, read_only, read_only_view, small_disk

PLENTY = 10 * LOW_BYTES


def place(name: str, problem: str = "", free_bytes: int = PLENTY) -> Place:
    return Place(name, Path("/h") / name, problem, free_bytes)


def told(glmfleet: Command, home: Path) -> dict[str, dict[str, str]]:
    """doctor's checks that are not ok, by name."""
    code, out, _ = glmfleet("doctor", "--json", "--home", home)
    assert code == 1
    return {check["name"]: check for check in json.loads(out) if not check["ok"]}


def test_a_problem_of_the_home_is_said_once_and_one_of_a_part_beside_it() -> None:
    full, closed = "the disk is full", "this user may not write there"
    (fine,) = place_checks([place("home"), place("store"), place("models")])
    assert (fine.ok, fine.detail) == (True, "/h/home")
    assert [(one.name, one.ok) for one in place_checks([place("home", full), place("store", full), place("models", closed)])] == [
        ("home", False),
        ("models", False),
    ]
    (_, store) = place_checks([place("home"), place("store", full)])
    assert store.detail == "/h/store cannot be written to: the disk is full"
    assert store.advice.startswith("free some space")
    (low,) = place_checks([place("home", free_bytes=LOW_BYTES - 1)])
    assert not low.ok
    assert "64.0 MiB of disk are free" in low.detail


def test_every_folder_of_the_home_that_exists_is_tried(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    for folder in (home.coordinator, home.device / "blobs" / "incoming", home.artifacts / "blobs" / "sha256"):
        folder.mkdir(parents=True)
    tried: list[Path] = []

    def problem_of(path: Path) -> str:
        tried.append(path)
        return "the disk is full" if path == home.coordinator else ""

    found = look(home, home.state_file, problem_of)
    assert [one.name for one in found] == ["home", "store", "models", "device", "device blobs"]
    assert tried == [one.path for one in found]
    assert [one.name for one in place_checks(found) if not one.ok] == ["store"]
    elsewhere = look(home, tmp_path.parent / "state.sqlite", problem_of)
    assert {one.name: one.path for one in elsewhere}["store"] == tmp_path.parent
    assert "coordinator" in [one.name for one in elsewhere]


def test_a_store_that_takes_a_transaction_is_no_problem(tmp_path: Path) -> None:
    file = tmp_path / "state.sqlite"
    assert store_checks(file) == []
    Store(file).close()
    assert store_checks(file) == []
    with closing(sqlite3.connect(file, isolation_level=None)) as busy:
        busy.execute("BEGIN IMMEDIATE")
        assert store_checks(file) == []


@needs_mounts
def test_a_store_that_may_not_be_written_in_a_folder_that_may(tmp_path: Path) -> None:
    with small_disk(tmp_path, 2 * LOW_BYTES) as disk:
        Store(disk / "state.sqlite").close()
        read_only(disk)
        (check,) = store_checks(disk / "state.sqlite")
        assert check.detail == f"{disk / 'state.sqlite'} cannot be written to: the file system is read-only"


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"no database at all" * 400), lambda file: (file.unlink(), file.mkdir())])
def test_a_store_that_is_none(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    file = tmp_path / "state.sqlite"
    Store(file).close()
    damage(file)
    (check,) = store_checks(file)
    assert not check.ok
    assert str(file) in check.detail
    assert check.advice


@needs_mounts
def test_doctor_says_of_a_full_disk_what_is_full_and_of_one_with_room_nothing(glmfleet: Command, tmp_path: Path) -> None:
    with small_disk(tmp_path, 2 * LOW_BYTES) as home:
        assert "home" not in told(glmfleet, home)
        fill(home / "others")
        found = told(glmfleet, home)["home"]
        assert found["detail"] == f"{home} cannot be written to: the disk is full"
        assert found["advice"].startswith("free some space there")
        assert "coordinator" in told(glmfleet, home)  # the rest is looked at all the same


@needs_mounts
def test_doctor_on_a_file_system_that_became_read_only(glmfleet: Command, tmp_path: Path) -> None:
    with small_disk(tmp_path, 2 * LOW_BYTES) as folder:
        home = Home.open(folder)
        home.coordinator.mkdir()
        Store(home.state_file).close()
        with home.serving("http://127.0.0.1:9"), read_only_view(folder, tmp_path / "view") as view:
            found = told(glmfleet, view)
        assert found["home"]["detail"] == f"{view} cannot be written to: the file system is read-only"
        assert "store" not in found  # of what lies on the same disk nothing more is said
        assert "does not answer" in found["coordinator"]["detail"]  # it was found


@needs_mounts
def test_doctor_on_a_part_of_the_home_that_lies_on_another_disk(glmfleet: Command, tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    with small_disk(tmp_path, 1 << 20) as disk:
        fill(disk / "others")
        home.coordinator.symlink_to(disk)
        found = told(glmfleet, home.path)
        assert "home" not in found
        assert found["store"]["detail"] == f"{home.coordinator} cannot be written to: the disk is full"


@needs_mounts
def test_what_has_to_be_written_on_a_full_or_read_only_disk_fails_in_one_line(glmfleet: Command, tmp_path: Path) -> None:
    with small_disk(tmp_path, 1 << 20) as home:
        read_only(home)
        for command in (["serve", "--port", "0"], ["device", "run"], ["devices"]):
            code, _, err = glmfleet(*command, "--home", home)
            assert (code, err.splitlines()[0]) == (1, f"error: the home {home} cannot be written to: the file system is read-only")
        read_only(home, False)
        fill(home / "others")
        code, _, err = glmfleet("serve", "--port", "0", "--home", home)
        assert (code, "defect" in err, "the disk is full" in err or "quota" in err) == (1, False, True)


@needs_mounts
def test_doctor_on_a_store_that_the_running_coordinator_has_elsewhere(glmfleet: Command, tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    with small_disk(tmp_path, 1 << 20) as disk, home.serving("http://127.0.0.1:9", disk / "state.sqlite"):
        Store(disk / "state.sqlite").close()
        fill(disk / "others")
        assert told(glmfleet, home.path)["store"]["detail"] == f"{disk} cannot be written to: the disk is full"


def test_a_home_that_is_a_file_is_a_problem_of_the_home(glmfleet: Command, tmp_path: Path) -> None:
    (tmp_path / "home").write_bytes(b"")
    assert "is not a folder" in told(glmfleet, tmp_path / "home")["home"]["detail"]


def test_a_new_home_is_made_and_ok(glmfleet: Command, tmp_path: Path) -> None:
    assert "home" not in told(glmfleet, tmp_path / "new")
