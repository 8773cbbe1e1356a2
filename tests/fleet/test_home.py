"""The state folder: where it is, who may write, and whether its coordinator lives."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fleet.home import Home, RunningCoordinator, locked, write_private
from protos.errors import Conflict, InvalidInput, NoSpace


def test_which_folder_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("GLMFLEET_HOME", raising=False)
    assert Home.open().path == tmp_path / "data" / "glmfleet"
    monkeypatch.setenv("GLMFLEET_HOME", str(tmp_path / "variable"))
    assert Home.open().path == tmp_path / "variable"
    assert Home.open(tmp_path / "argument").path == tmp_path / "argument"
    monkeypatch.chdir(tmp_path)
    assert Home.open(Path("relative/../here")).path == tmp_path / "here"


@pytest.mark.parametrize("library", ["raises", "leaves the tilde"])
def test_a_user_without_a_home_folder_is_told_how_to_say_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """As in a container that runs as a user whom no list knows; the library does either, by its version."""

    def user_data_dir(*_: object, **__: object) -> str:
        if library == "raises":
            raise RuntimeError("could not determine the home directory")
        return "~/.local/share/glmfleet"

    monkeypatch.setattr("platformdirs.user_data_dir", user_data_dir)
    monkeypatch.delenv("GLMFLEET_HOME", raising=False)
    with pytest.raises(InvalidInput, match="this user has no home folder") as caught:
        Home.open()
    assert "--home" in caught.value.advice
    assert Home.open(tmp_path).option == f" --home {tmp_path}"
    monkeypatch.setenv("GLMFLEET_HOME", str(tmp_path))
    assert Home.open().option == ""


@pytest.mark.parametrize(("name", "why"), [("~nobody-has-this-name/x", "nobody says where"), ("/tmp/\udce9", "not text in UTF-8")])
def test_a_folder_that_cannot_be_named_is_refused(name: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        Home.open(Path(name))


def test_it_is_made_private_and_opened_again(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "a" / "home")
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert Home.open(home.path) == home
    assert list(home.path.iterdir()) == []


def test_the_layout(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    below = {
        name: getattr(home, name).relative_to(tmp_path).as_posix()
        for name in ("authority", "coordinator", "artifacts", "downloads", "sim", "device")
    }
    assert below == {name: name for name in below}
    assert home.state_file == tmp_path / "coordinator" / "state.sqlite"
    assert home.coordinator_file == tmp_path / "coordinator.json"


def test_what_cannot_be_a_home(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InvalidInput, match="is not a folder") as caught:
        Home.open(file)
    assert "--home" in caught.value.advice
    with pytest.raises(InvalidInput, match="cannot be written to"):
        Home.open(file / "below")
    with pytest.raises(InvalidInput, match="cannot be written to"):
        Home.open(Path("/proc/glmfleet"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_without_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidInput, match="cannot be written to: Permission denied"):
        Home.open(tmp_path)


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    home, inside, worst = Home.open(tmp_path), 0, 0

    def work() -> None:
        nonlocal inside, worst
        for _ in range(50):
            with home.locked("making"):
                inside += 1
                worst = max(worst, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, worst) == (0, 1)


HOLD = """
import sys
from pathlib import Path
from fleet.home import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_other_processes_wait_and_a_killed_holder_does_not_block(tmp_path: Path) -> None:
    path, entered = tmp_path / "lock", threading.Event()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"

        def enter() -> None:
            with locked(path):
                entered.set()

        waiter = threading.Thread(target=enter)
        waiter.start()
        assert not entered.wait(0.1)
        child.kill()
        assert entered.wait(10)
        waiter.join()


def test_a_running_coordinator_is_found_and_only_one_runs(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    assert home.running_coordinator() is None
    with home.serving("http://127.0.0.1:1"):
        assert home.running_coordinator() == RunningCoordinator("http://127.0.0.1:1", os.getpid())
        assert stat.S_IMODE(home.coordinator_file.stat().st_mode) == 0o600
        with (
            pytest.raises(Conflict, match=f"already runs at http://127.0.0.1:1 \\(process {os.getpid()}\\)"),
            home.serving("http://127.0.0.1:2"),
        ):
            pytest.fail("two coordinators of one home")
        assert home.running_coordinator() == RunningCoordinator("http://127.0.0.1:1", os.getpid())
    assert home.running_coordinator() is None
    assert not home.coordinator_file.exists()


SERVE = """
import sys
from pathlib import Path
from fleet.home import Home
with Home.open(Path(sys.argv[1])).serving("http://127.0.0.1:3"):
    print("serving", flush=True)
    sys.stdin.read()
"""


def test_a_killed_coordinator_is_not_taken_for_a_living_one(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    with subprocess.Popen([sys.executable, "-c", SERVE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"serving\n"
        assert home.running_coordinator() == RunningCoordinator("http://127.0.0.1:3", child.pid)
        child.kill()
        child.wait()
    assert home.coordinator_file.exists()
    assert home.running_coordinator() is None
    with home.serving("http://127.0.0.1:4"):
        assert home.running_coordinator() == RunningCoordinator("http://127.0.0.1:4", os.getpid())


@pytest.mark.parametrize("data", ["", "{", "[]", '{"url": "x"}', '{"url": "x", "pid": "y"}'])
def test_a_damaged_record_is_no_coordinator(tmp_path: Path, data: str) -> None:
    home = Home.open(tmp_path)
    with home.serving("http://127.0.0.1:1"):
        home.coordinator_file.write_text(data)
        assert home.running_coordinator() is None


def test_a_look_does_not_stop_a_coordinator_from_starting(tmp_path: Path) -> None:
    home, stop = Home.open(tmp_path), threading.Event()

    def look() -> None:
        while not stop.is_set():
            home.running_coordinator()

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(50):
            with home.serving("http://127.0.0.1:1"):
                assert json.loads(home.coordinator_file.read_text())["pid"] == os.getpid()
    finally:
        stop.set()
        watcher.join()


def test_a_private_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NoSpace, match="the disk is full"):
        write_private(path, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
    with pytest.raises(InvalidInput, match="cannot write"):
        write_private(tmp_path / "missing" / "file", b"new")
