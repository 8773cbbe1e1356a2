"""`glmfleet devices`: boards that ask to join, and tokens."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fleet.cli import enrolment
from fleet.home import Home
from protos.errors import NotFound
from tests.support.command import Command
from tests.support.fake_coordinator import BOARD, DEVICE, FakeCoordinator


def test_the_list_names_who_asks_and_what_to_do(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.asking = [BOARD]
    code, out, err = glmfleet("devices", "--home", served.path)
    assert code == 0
    assert out.splitlines()[1].startswith("dev-1")
    assert "gate-7 at 10.0.0.7:7420 asks to join, with the fingerprint diamond machine female mask zoo" in err
    assert f"glmfleet devices accept {BOARD.device_id}" in err


def test_pending(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    assert "run `glmfleet device run` on it" in glmfleet("devices", "pending", "--home", served.path)[2]
    assert glmfleet("devices", "pending", "--json", "--home", served.path)[1].strip() == "[]"
    coordinator.asking = [replace(BOARD, detail="its token has expired")]
    _, out, err = glmfleet("devices", "pending", "--home", served.path)
    assert "gate-7" in out
    assert "gate-7: its token has expired\n" in err
    assert json.loads(glmfleet("devices", "pending", "--json", "--home", served.path)[1])[0]["fingerprint"] == BOARD.fingerprint


@pytest.mark.parametrize(("command", "said"), [("accept", "is of the fleet"), ("reject", "is not shown any more")])
def test_accept_and_reject(glmfleet: Command, served: Home, coordinator: FakeCoordinator, command: str, said: str) -> None:
    code, _, err = glmfleet("devices", command, "diamond machine female mask zoo", "--home", served.path)
    assert code == 0
    assert said in err
    assert coordinator.asked == [(command, "diamond machine female mask zoo")]
    coordinator.error = NotFound("no board 'x' asks to join", advice="those that do: gate-7")
    assert glmfleet("devices", command, "x", "--home", served.path) == (
        1,
        "",
        "error: no board 'x' asks to join\n  those that do: gate-7\n",
    )


def test_tokens(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    code, out, err = glmfleet("devices", "token", "--for", "10m", "--home", served.path)
    assert (code, out) == (0, "glmfleet-secret\n")
    assert "glmfleet device run --token" in err
    assert "glmfleet device join HOST --token" in err
    _, out, _ = glmfleet("devices", "token", "--list", "--home", served.path)
    assert out.splitlines()[1].split()[0] == "0a1b2c3d"
    assert "glmfleet-" not in out
    glmfleet("devices", "token", "--revoke", "0a1b2c3d", "--home", served.path)
    assert coordinator.asked == [("new_token", 600.0), ("revoke_token", "0a1b2c3d")]


def test_a_drain_is_waited_for(glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is still there, and then that it may be switched off."""
    states = [replace(DEVICE, drain="draining", drain_detail="stage 0 of tiny-1 is being moved")] * 9  # the log asks too
    monkeypatch.setattr(coordinator, "devices", lambda: [states.pop() if states else replace(DEVICE, drain="drained")])
    monkeypatch.setattr(enrolment, "DRAIN_POLL_SECONDS", 0.01)
    code, _, err = glmfleet("devices", "drain", "dev-1", "--home", served.path)
    assert (code, err.splitlines()) == (0, ["dev-1: stage 0 of tiny-1 is being moved", "dev-1 is drained: it may be switched off"])
    code, _, err = glmfleet("devices", "undrain", "dev-1", "--home", served.path)
    assert (code, err) == (0, "dev-1 may be used again\n")
    assert coordinator.asked == [("drain", "dev-1"), ("undrain", "dev-1")]
