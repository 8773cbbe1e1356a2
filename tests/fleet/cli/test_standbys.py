"""What `plan`, `deploy` and `deployments` say of devices that stand by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.deploying.desired import Policy
from fleet.deploying.views import StandbyView
from fleet.home import Home
from fleet.planning.plan import Covered, Pause, PlanRequest, Standby
from tests.support import fake_coordinator
from tests.support.command import Command
from tests.support.fake_coordinator import DEPLOYMENT, PLAN, FakeCoordinator


def test_so_many_are_asked_for(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    assert glmfleet("deploy", "tiny", "--standby", "2", "--home", served.path)[0] == 0
    assert coordinator.asked == [(PlanRequest("tiny"), None, Policy(standby=2))]
    coordinator.asked.clear()
    assert glmfleet("plan", "tiny", "--standby", "1", "--home", served.path)[0] == 0
    assert coordinator.asked == [(PlanRequest("tiny"), 1)]


def test_a_plan_says_who_keeps_what_and_how_long_a_pause_is(glmfleet: Command, served: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    standby = Standby("ssss", "dev-9", (Covered(0, PLAN.stages[0]),))
    monkeypatch.setattr(fake_coordinator, "PLAN", replace(PLAN, standbys=(standby,), pauses=(Pause(0, 3.5, 0.5, 0.5, 2.5),)))
    code, out, _ = glmfleet("plan", "tiny", "--home", served.path)
    assert code == 0
    assert "standby: dev-9 keeps all stages loaded" in out
    assert "if dev-1 is lost, answers pause for 3.5 s (predicted): 0.5 s until it is left, 0.5 s to move, 2.5 s" in out


def test_deployments_say_who_stands_by(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    standbys = (StandbyView("s", "dev-9", (0,), "ready"), StandbyView("t", "dev-8", (0,), "away", "dev-8 is offline: nobody listens"))
    pipelines = tuple(replace(one, standbys=standbys) for one in DEPLOYMENT.pipelines)
    coordinator.deployed = [replace(DEPLOYMENT, pipelines=pipelines, standby=3, standby_detail="2 of the 3 standbys: no device is left")]
    _, _, err = glmfleet("deployments", "--home", served.path)
    name = DEPLOYMENT.pipelines[0].pipeline_id
    assert err.splitlines() == [
        f"{name}: dev-9 stands by for all stages: ready",
        f"{name}: dev-8 stands by for all stages: away (dev-8 is offline: nobody listens)",
        "tiny has 2 of the 3 standbys: no device is left",
    ]
    assert "it has 2 of the 3 standbys: no device is left" in glmfleet("deploy", "tiny", "--home", served.path)[2]


@pytest.mark.parametrize(("text", "seconds"), [("fast", 0.0), ("5", 5.0), ("0.5", 0.5)])
def test_how_a_broken_answer_goes_on(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, text: str, seconds: float | None
) -> None:
    assert glmfleet("deploy", "tiny", "--recovery", text, "--home", served.path)[0] == 0
    assert coordinator.asked == [(PlanRequest("tiny"), None, Policy(exact_within_seconds=seconds))]


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf"])
def test_what_is_neither_a_way_nor_seconds_is_refused(glmfleet: Command, served: Home, text: str) -> None:
    code, _, err = glmfleet("deploy", "tiny", "--recovery", text, "--home", served.path)
    assert code == 2
    assert "--recovery 5" in err
