"""What doctor says on a board, of its certificate, its agent and its coordinator."""

from __future__ import annotations

import fcntl
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from device.agent.only import only_agent, running_agent
from device.agent.status import AgentStatus, HeardFrom, read_status
from device.publishers import FOLDER
from fleet.cli.doctor_board import BoardSeen, board_findings, is_board, look_at_board
from fleet.cli.findings import Finding, Level
from fleet.home import Home
from fleet.trust.authority import Authority
from protos.ids import DeviceId, FleetId
from tests.support.command import Command

NOW, DAY = 1e9, 86400.0
HEARD = (HeardFrom("eth0", "10.0.0.1", NOW - 60),)
STATUS = AgentStatus(7, "gate-7", "0.0.0.0:7420", "0.1.0", NOW, NOW - 5, True, HEARD, "", 1 << 30, 2 << 30)
SEEN = BoardSeen(DeviceId("a" * 16), FleetId("f" * 16), True, "", "", NOW - DAY / 2, NOW + DAY / 2, 1, "7", STATUS)


def found(seen: BoardSeen = SEEN, now: float = NOW) -> dict[str, Finding]:
    return {one.name: one for one in board_findings(seen, now)}


def test_a_board_that_is_well_says_whose_it_is() -> None:
    findings = found()
    assert {one.level for one in findings.values()} == {"ok"}
    assert findings["fleet"].detail == f"{'f' * 16}; device {'a' * 16}, fingerprint army gap recipe valve jeans"
    assert findings["multicast"].detail == "who looks for devices was heard: on eth0 10.0.0.1 60 s ago"


@pytest.mark.parametrize(
    ("now", "level", "says"),
    [
        (NOW, "ok", "good for another 12 h"),
        (NOW + 0.45 * DAY, "warn", "overdue: it ends in 72 min"),
        (NOW + DAY, "fail", "expired 12 h ago"),
        (NOW - DAY, "fail", "good only in 12 h, by this board's clock"),
    ],
)
def test_the_certificate_by_this_board_s_clock(now: float, level: Level, says: str) -> None:
    finding = found(now=now)["certificate"]
    assert (finding.level, says in finding.detail) == (level, True)
    assert finding.ok or "clock" in finding.advice


@pytest.mark.parametrize(
    ("change", "name", "level", "says"),
    [
        ({"coordinator_at": 0.0}, "coordinator", "warn", "none has connected since the agent started"),
        ({"coordinator_at": NOW - 900}, "coordinator", "warn", "none has been connected for 15 min"),
        ({"listens": False}, "multicast", "warn", "cannot listen"),
        ({"heard": ()}, "multicast", "ok", "nobody who looks for devices was heard yet"),
        ({"heard": (), "coordinator_at": 0.0}, "multicast", "warn", "nobody who looks for devices was heard yet"),
        ({"storage_problem": "the disk is full"}, "models", "fail", "no more of a model can be kept: the disk is full"),
        ({"memory_available_bytes": 1 << 20}, "memory", "warn", "1.0 GiB more are promised to models, and this machine has 1.0 MiB"),
    ],
)
def test_what_the_agent_notes(change: dict[str, object], name: str, level: Level, says: str) -> None:
    finding = found(replace(SEEN, status=replace(STATUS, **change)))[name]  # type: ignore[arg-type]
    assert (finding.level, says in finding.detail) == (level, True)
    assert finding.ok or finding.advice


def test_a_board_of_none_one_without_an_agent_and_one_whose_files_are_damaged() -> None:
    none = found(replace(SEEN, member=False, fleet=None, status=None))
    assert (none["fleet"].level, none["fleet"].advice) == ("fail", f"where the coordinator runs: glmfleet devices accept {'a' * 16}")
    assert "certificate" not in none
    assert found(replace(SEEN, agent=None))["agent"].advice == "start it: glmfleet device run"
    assert "coordinator" not in found(replace(SEEN, agent=None))  # what a dead one has noted is old
    assert found(replace(SEEN, publishers=None))["publishers"].level == "fail"
    assert found(replace(SEEN, problem="damaged", advice="do this"))["fleet"].advice == "do this"


def test_what_lies_in_the_folder_is_read_and_left_as_it_is(tmp_path: Path, glmfleet: Command) -> None:
    home = Home.open(tmp_path / "home")
    assert not is_board(home)
    made = datetime.now(UTC) - timedelta(days=2)
    authority = Authority.open(tmp_path / "authority", clock=lambda: made)
    authority.issue_folder(home.device, "device", "gate-7")
    (home.device / FOLDER).mkdir()
    (home.device / FOLDER / "keys.json").write_text(json.dumps(["aa" * 32]))
    (home.device / FOLDER / f"{'0' * 64}.manifest").write_bytes(b"no manifest")
    before = {path: path.read_bytes() for path in home.device.rglob("*") if path.is_file()}
    assert is_board(home)
    seen = look_at_board(home.device)
    assert (seen.fleet, seen.member, seen.publishers, seen.agent, seen.problem) == (authority.fleet_id, True, 1, None, "")
    code, out, _ = glmfleet("doctor", "--home", home.path)
    assert code == 1
    assert "PROBLEM  certificate: expired 24 h ago" in out or "PROBLEM  certificate: expired 23 h ago" in out
    assert "PROBLEM  agent: it does not run\n" in out
    assert "models: none yet" not in out  # nor anything else of a coordinator's machine
    assert {path: path.read_bytes() for path in home.device.rglob("*") if path.is_file()} == before
    (home.device / "certificate.pem").write_text("no certificate")
    assert "cannot be read" in look_at_board(home.device).problem


def test_an_agent_that_runs_is_known_and_not_kept_from_starting_by_a_look(tmp_path: Path) -> None:
    assert running_agent(tmp_path) is None
    with only_agent(tmp_path):
        assert running_agent(tmp_path) is not None
    assert running_agent(tmp_path) is None
    with (tmp_path / "agent.lock").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        with pytest.raises(Exception, match="runs already"), only_agent(tmp_path):
            raise AssertionError("one that holds it for longer counts")


def test_a_note_of_another_version_is_none(tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_text('{"pid": 1}')
    assert read_status(tmp_path) is None
