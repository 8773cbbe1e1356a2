"""The audit log: whatever is done to its files afterwards is found."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.access import AuditVerdict
from fleet.trust import audit
from fleet.trust.audit import AuditLog, Head, shortened
from protos.errors import InvalidInput, NoSpace

LINES = 12


class Heads:
    """The head in memory."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.error: Exception | None = None

    def read(self) -> Head | None:
        return self.head

    def write(self, head: Head) -> None:
        if self.error is not None:
            raise self.error
        self.head = head


def written(folder: Path, heads: Heads, lines: int = LINES, rotate_bytes: int = 500) -> AuditLog:
    log = AuditLog(folder, heads, lambda: 1000.0, rotate_bytes=rotate_bytes)
    for number in range(lines):
        log.append(who="ann", role="admin", key_id="", call="undeploy", outcome="done", arguments={"name": f"model-{number}"})
    return log


def contents(folder: Path) -> list[tuple[Path, list[bytes]]]:
    return [(file, file.read_bytes().splitlines(keepends=True)) for file in sorted(folder.iterdir())]


def test_a_log_as_it_was_written_is_so_over_several_files_and_a_restart(tmp_path: Path) -> None:
    heads = Heads()
    log = written(tmp_path, heads)
    assert len(list(tmp_path.iterdir())) > 3
    assert log.verify() == AuditVerdict(LINES, "")
    again = AuditLog(tmp_path, heads, lambda: 2000.0, rotate_bytes=500)
    again.append(who="bob", role="user", key_id="1f", call="cancel", outcome="refused")
    assert again.verify() == AuditVerdict(LINES + 1, "")
    assert [entry.sequence for entry in again.entries()] == list(range(1, LINES + 2))
    assert [entry.who for entry in again.entries(since=1500.0)] == ["bob"]
    assert [entry.sequence for entry in again.entries(most=3)] == [LINES - 1, LINES, LINES + 1]
    assert all(os.stat(file).st_mode & 0o777 == 0o600 for file in tmp_path.iterdir())


def test_an_empty_log_is_as_it_was_written(tmp_path: Path) -> None:
    assert AuditLog(tmp_path, Heads()).verify() == AuditVerdict(0, "")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_edit_deletion_swap_and_truncation_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder, heads = tmp_path_factory.mktemp("audit"), Heads()
    log = written(folder, heads, rotate_bytes=data.draw(st.sampled_from([1, 500, 1 << 20])))
    lines = [(file, place) for file, found in contents(folder) for place in range(len(found))]
    text = dict(contents(folder))
    file, place = data.draw(st.sampled_from(lines))
    match data.draw(st.sampled_from(["edit", "delete", "swap", "cut", "append", "double", "cut the log", "remove a file"])):
        case "edit":
            line = bytearray(text[file][place])
            where = data.draw(st.integers(0, len(line) - 1))
            line[where] ^= data.draw(st.integers(1, 255))
            text[file][place] = bytes(line)
        case "delete":
            del text[file][place]
        case "swap":
            other, there = data.draw(st.sampled_from([one for one in lines if one != (file, place)]))
            text[file][place], text[other][there] = text[other][there], text[file][place]
        case "cut":
            text[file][place] = text[file][place][: data.draw(st.integers(0, len(text[file][place]) - 1))]
        case "append":
            last = max(text)
            entry = {**json.loads(text[last][-1]), "sequence": LINES + 1, "previous": heads.head.digest}
            text[last].append(json.dumps(entry).encode() + b"\n")
        case "double":
            text[file].insert(place, text[file][place])
        case "cut the log":  # from a line on, the files behind it too
            keep = data.draw(st.integers(0, LINES - 1))
            for number, (one, _) in enumerate(lines):
                if number >= keep:
                    text[one].pop()
        case "remove a file":
            text[file] = []
    changed = {one: b"".join(found) for one, found in text.items()}
    if all(one.read_bytes() == now for one, now in changed.items()):
        return
    for one, now in changed.items():
        if now:
            one.write_bytes(now)
        else:
            one.unlink()
    assert log.verify().problem


def test_what_a_crash_kept_from_the_file_is_written_after_it(tmp_path: Path) -> None:
    heads = Heads()
    written(tmp_path, heads, 3, 1 << 20)
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    for kept in (whole[:-1], whole[: whole[:-1].rindex(b"\n") + 20], whole[: whole[:-1].rindex(b"\n") + 1]):
        file.write_bytes(kept)
        log = AuditLog(tmp_path, heads, lambda: 1000.0)
        log.append(who="ann", role="admin", key_id="", call="undeploy", outcome="done")
        assert log.verify().problem == ""
        assert file.read_bytes().startswith(whole)
        file.write_bytes(whole)
        heads.head = Head(3, audit.digest_of(whole.splitlines()[-1]), whole.splitlines()[-1].decode())


def test_a_line_that_could_not_be_written_comes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = Heads()
    log = written(tmp_path, heads, 2)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(NoSpace, match="the disk is full"):
            log.append(who="ann", role="admin", key_id="", call="undeploy", outcome="begun")
    log.append(who="ann", role="admin", key_id="", call="undeploy", outcome="begun")
    assert log.verify() == AuditVerdict(4, "")


def test_a_head_that_cannot_be_written_is_no_line(tmp_path: Path) -> None:
    heads = Heads()
    log = written(tmp_path, heads, 2)
    heads.error = InvalidInput("the database is gone")
    with pytest.raises(InvalidInput):
        log.append(who="ann", role="admin", key_id="", call="undeploy", outcome="begun")
    heads.error = None
    assert log.verify() == AuditVerdict(2, "")


def test_another_database_is_told(tmp_path: Path) -> None:
    written(tmp_path, Heads(), 2)
    log = AuditLog(tmp_path, Heads(), lambda: 1000.0)
    assert log.verify() == AuditVerdict(3, "", (3,))


def test_what_is_long_is_cut() -> None:
    assert shortened("x" * 1000) == "x" * 200 + "…"
    assert shortened({"names": ["y" * 1000] * 100, "at": 1.5, "none": None, "odd": object()}) == {
        "names": ["y" * 200 + "…"] * 32,
        "at": 1.5,
        "none": None,
        "odd": "object",
    }
