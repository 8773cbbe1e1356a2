"""What is said to be lost with a device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.deploying.losing import losses
from fleet.deploying.views import DeploymentView, PipelineView, StandbyView
from fleet.planning.plan import Pause
from tests.support.fake_coordinator import DEPLOYMENT, PIPELINE, STAGE

TWO = replace(
    PIPELINE,
    stages=(replace(STAGE, device_id="a", weight_bytes=3 << 20), replace(STAGE, device_id="b", weight_bytes=5 << 20)),
    state="ready",
)
OTHER = replace(TWO, pipeline_id="other", stages=(replace(STAGE, device_id="c"),))
COVERED = replace(TWO, standbys=(StandbyView("d", "d", (0, 1), "ready"),), pauses=(Pause(0, 2.0, 1, 1, 0), Pause(1, 4.2, 1, 1, 2)))
UNTIL = "until other devices have its stages, which takes sending up to 5.0 MiB, if any has the room"


def deployment(*pipelines: PipelineView) -> DeploymentView:
    return replace(DEPLOYMENT, name="tiny", pipelines=pipelines)


@pytest.mark.parametrize(
    ("pipelines", "said"),
    [
        ((TWO,), [f"tiny answers nothing {UNTIL}"]),
        ((TWO, OTHER), [f"tiny answers with 1 of 2 pipelines {UNTIL}"]),
        ((TWO, replace(OTHER, state="waiting")), [f"tiny answers nothing {UNTIL}"]),
        ((COVERED,), ["tiny pauses for about 4 s, then its standby has the place"]),
        ((replace(COVERED, pauses=()),), ["tiny pauses, then its standby has the place"]),
        ((replace(COVERED, standbys=(StandbyView("d", "d", (0, 1), "preparing"),)),), [f"tiny answers nothing {UNTIL}"]),
        ((replace(COVERED, standbys=(StandbyView("d", "d", (0,), "ready"),)),), [f"tiny answers nothing {UNTIL}"]),
        ((OTHER,), []),
    ],
)
def test_what_breaks_without_a_device(pipelines: tuple[PipelineView, ...], said: list[str]) -> None:
    assert losses("b", [deployment(*pipelines)]) == said


def test_each_deployment_has_a_line() -> None:
    found = losses("c", [deployment(OTHER), replace(deployment(TWO, OTHER), name="large")])
    assert [line.split()[0] for line in found] == ["tiny", "large"]
