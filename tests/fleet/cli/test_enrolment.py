"""`glmfleet devices`: boards that ask to join, and tokens."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fleet.cli import enrolment, recovery
from fleet.home import Home
from protos.errors import NotFound
from tests.support.command import Command
from tests.support.fake_coordinator import BOARD, DEPLOYMENT, DEVICE, FakeCoordinator


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


def test_pending_breaks_no_word_on_a_narrow_terminal(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    board = replace(BOARD, name="workshop-left-7", profile="4 CPU threads", address="[fd00:77::1:2:3]:7420")
    coordinator.asking = [board, replace(board, device_id="hgfedcba22334455", fingerprint="remember discover scissors universe mountain")]
    _, out, err = glmfleet("devices", "pending", "--home", served.path)
    assert all(len(line) <= 80 for line in out.splitlines())
    words = out.split()
    for one in coordinator.asking:
        assert {one.name, one.address, *one.profile.split(), *one.fingerprint.split()} <= set(words)
    assert "2 boards are called workshop-left-7; accept one by its fingerprint or its id: abcdefgh22334455, hgfedcba22334455" in err


def test_a_removal_says_what_it_breaks_until_that_is_whole(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "POLL_SECONDS", 0.01)
    broken = replace(DEPLOYMENT, state="degraded", detail="dev-1 was removed from the fleet")
    views = [[broken]] * 6  # the log asks too
    monkeypatch.setattr(coordinator, "deployments", lambda: views.pop() if views else [DEPLOYMENT])
    coordinator.leaves_behind = (DEPLOYMENT.name, "gone")
    code, out, err = glmfleet("devices", "remove", "dev-1", "--force", "--home", served.path)
    assert (code, out) == (0, "")
    lines = err.splitlines()
    assert f"{DEPLOYMENT.name} is degraded: dev-1 was removed from the fleet" in lines
    assert "gone is gone" in lines
    assert lines[-1].startswith(f"{DEPLOYMENT.name} is whole again after ")
    told = json.loads(glmfleet("devices", "remove", "dev-1", "--force", "--json", "--home", served.path)[1])
    assert told["used_by"] == [DEPLOYMENT.name, "gone"]


def test_what_cannot_move_is_not_waited_for_without_end(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(recovery, "QUIET_SECONDS", 0.1)
    coordinator.deployed = [replace(DEPLOYMENT, state="degraded", detail="no room")]
    coordinator.leaves_behind = (DEPLOYMENT.name,)
    code, _, err = glmfleet("devices", "revoke", "dev-1", "--home", served.path)
    assert (code, err.splitlines()[1:]) == (
        0,
        [f"{DEPLOYMENT.name} is degraded: no room", f"{DEPLOYMENT.name} goes on as soon as that is over; to see: glmfleet deployments"],
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
