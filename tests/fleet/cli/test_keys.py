"""`glmfleet keys` and `glmfleet audit`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fleet.access import AuditVerdict, NewKey
from fleet.home import Home
from tests.support import fake_coordinator
from tests.support.command import Command
from tests.support.fake_coordinator import KEY, LINE, FakeCoordinator


def test_create_prints_the_key_alone(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    code, out, err = glmfleet("keys", "create", "dashboard", "--for", "30d", "--requests-per-minute", 60, "--home", served.path)
    assert (code, out) == (0, "glmfleet-key-secret\n")
    assert "key 1f2e3d4c of dashboard (viewer), good until 2033-" in err
    glmfleet("keys", "create", "ann", "--role", "admin", "--for", "never", "--tokens-per-day", 1000, "--home", served.path)
    assert coordinator.asked == [NewKey("dashboard", "viewer", 30 * 86400.0, 60), NewKey("ann", "admin", None, None, 1000)]


def test_a_role_that_is_none_is_a_wrong_command_line(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    code, _, err = glmfleet("keys", "create", "ann", "--role", "root", "--home", served.path)
    assert (code, "viewer, user, operator, admin" in err) == (2, True)
    assert coordinator.asked == []


def test_list_and_revoke(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    out = glmfleet("keys", "list", "--home", served.path)[1]
    assert out.splitlines()[1].split()[:3] == ["1f2e3d4c", "dashboard", "viewer"]
    assert "60/min" in out
    assert json.loads(glmfleet("keys", "list", "--json", "--home", served.path)[1])[0]["tokens_today"] == KEY.tokens_today
    assert glmfleet("keys", "revoke", "dashboard", "--home", served.path)[2] == "key 1f2e3d4c of dashboard is no good any more\n"
    assert coordinator.asked == [("revoke_key", "dashboard")]


def test_the_log_shows_a_change_once(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = replace(LINE, sequence=6, of=None, outcome="begun", after="")
    open_ = replace(begun, sequence=9, call="deploy", arguments={"name": "\x1b[2J"})

    async def audit(since_seconds: float):
        assert since_seconds == 7200
        return [begun, LINE, open_]

    coordinator.audit = audit  # type: ignore[method-assign]
    out = glmfleet("audit", "show", "--since", "2h", "--home", served.path)[1]
    first, states, last, nothing = out.splitlines()
    assert first.split()[0] == "7"
    assert first.endswith("local (admin)  undeploy name=tiny: done")
    assert states.strip() == "ready: tiny -> absent"
    assert last.endswith("deploy name=?[2J: how it ended is not known")
    assert nothing.strip() == "ready: tiny -> nothing"
    assert [one["sequence"] for one in json.loads(glmfleet("audit", "show", "--since", "2h", "--json", "--home", served.path)[1])] == [
        6,
        7,
        9,
    ]


def test_verify_fails_when_a_line_was_changed(glmfleet: Command, served: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert glmfleet("audit", "verify", "--home", served.path) == (0, "", "7 lines, each as it was written\n")
    monkeypatch.setattr(fake_coordinator, "VERDICT", AuditVerdict(3, "line 4 (000000000001.jsonl:4) is no line of this log"))
    code, _, err = glmfleet("audit", "verify", "--home", served.path)
    assert code == 1
    assert err.splitlines()[0] == "error: the audit log is not as it was written: line 4 (000000000001.jsonl:4) is no line of this log"
