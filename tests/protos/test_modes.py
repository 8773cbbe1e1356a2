"""Homes and keys that others could touch: refused, or closed with one line."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from device.agent.identity import insecure_identity, load_identity
from device.agent.only import only_agent
from fleet.home import Home
from fleet.trust.api_key import ensure_key
from fleet.trust.authority import Authority
from fleet.trust.publisher import Publisher
from protos.errors import Denied
from protos.modes import check_folder, close_file
from quantize.artifact.store import ArtifactStore
from tests.support.processes import Glmfleet


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def enter_agent(folder: Path) -> None:
    with only_agent(folder):
        pass


FOLDERS: dict[str, Callable[[Path], object]] = {
    "a home": Home.open,
    "an authority": Authority.open,
    "a publisher": lambda folder: Publisher.open(folder, ArtifactStore(folder.parent / "artifacts")),
    "an agent's state": enter_agent,
    "an identity": lambda folder: Authority.open(folder.parent / "authority").issue_folder(folder, "device", "x"),
}


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize(("permissions", "refused"), [(0o777, True), (0o1777, True), (0o702, True), (0o755, False), (0o770, False)])
def test_a_folder_that_others_can_write_to(tmp_path: Path, kind: str, permissions: int, refused: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(permissions)
    if not refused:
        FOLDERS[kind](folder)
        return
    with pytest.raises(Denied, match=f"others can write to {folder} .mode {permissions:04o}") as told:
        FOLDERS[kind](folder)
    assert told.value.advice == f"chmod go-w {folder}, or choose another folder with --home"
    assert mode(folder) == permissions  # it may be one that is no business of ours, as /tmp is
    assert os.listdir(folder) == []


def test_a_group_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o770)
    check_folder(tmp_path)
    monkeypatch.setattr(os, "getegid", lambda: tmp_path.stat().st_gid + 1)
    monkeypatch.setattr(os, "getgroups", list)
    with pytest.raises(Denied):
        check_folder(tmp_path)


def authority_key(folder: Path) -> tuple[Path, Callable[[], object]]:
    return folder / "key.pem", lambda: Authority.open(folder)


def device_key(folder: Path) -> tuple[Path, Callable[[], object]]:
    authority = Authority.open(folder.parent / "authority")
    authority.issue_folder(folder, "device", "x")
    return folder / "key.pem", lambda: load_identity(folder)


def plain_key(folder: Path) -> tuple[Path, Callable[[], object]]:
    return folder / "key.pem", lambda: insecure_identity(folder)


def api_key(folder: Path) -> tuple[Path, Callable[[], object]]:
    return folder / "api-key", lambda: ensure_key(Home.open(folder))


def publisher_key(folder: Path) -> tuple[Path, Callable[[], object]]:
    return folder / "key.pem", lambda: Publisher.open(folder, ArtifactStore(folder.parent / "artifacts"))


@pytest.mark.parametrize("kind", [authority_key, publisher_key, device_key, plain_key, api_key])
@pytest.mark.parametrize("permissions", [0o644, 0o640, 0o660, 0o604])
def test_a_key_that_others_can_read_is_closed_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: Callable[[Path], tuple[Path, Callable[[], object]]], permissions: int
) -> None:
    path, use = kind(tmp_path / "folder")
    use()
    assert mode(path) == 0o600
    path.chmod(permissions)
    before = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        use()
    assert mode(path) == 0o600
    assert path.read_bytes() == before
    [record] = caplog.records
    assert record.getMessage().startswith(f"others could read {path} (mode {permissions:04o}); now only its owner can")
    caplog.clear()
    use()
    assert caplog.records == []


def test_a_key_that_is_not_ours_to_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, use = authority_key(tmp_path / "authority")
    use()
    path.chmod(0o644)

    def refuse(descriptor: int, permissions: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refuse)
    with pytest.raises(Denied, match="others can read") as told:
        use()
    assert told.value.advice == f"chmod 600 {path}, as the user who owns it"


def test_a_missing_file_is_left_to_its_reader(tmp_path: Path) -> None:
    close_file(tmp_path / "none")
    check_folder(tmp_path / "none")


@pytest.mark.parametrize("words", [["serve", "--port", "0"], ["device", "run", "--port", "0"], ["sim", "up"], ["sim", "status"]])
def test_the_commands_say_it_in_one_line(tmp_path: Path, words: list[str]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    done = Glmfleet(home)(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == f"error: others can write to {home} (mode 0777), and so change keys and models in it"
    assert len(done.stderr.splitlines()) == 2


def test_a_command_closes_a_key_and_says_so_in_one_line(tmp_path: Path) -> None:
    home = tmp_path / "home"
    Authority.open(Home.open(home).authority)
    (home / "authority" / "key.pem").chmod(0o644)
    done = Glmfleet(home)("sim", "up", "--devices", 1)
    assert done.returncode == 0
    assert "others could read" in done.stderr.splitlines()[0]
    assert mode(home / "authority" / "key.pem") == 0o600
    assert Glmfleet(home)("sim", "down").returncode == 0
