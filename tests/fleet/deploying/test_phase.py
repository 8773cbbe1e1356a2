"""The state of a pipeline: each transition by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.deploying import phase
from fleet.deploying.phase import (
    Attaching,
    Failure,
    History,
    Look,
    ObservedPipeline,
    ObservedStage,
    ObservedStream,
    Ready,
    Reattach,
    Repair,
    Repairing,
    Replan,
    Waiting,
    pipeline_phase,
)

HERE = ObservedStage("dev-1", connected=True, addresses=frozenset({"a:1"}), holds=True)
LOST = replace(HERE, holds=False)
AWAY = ObservedStage("dev-2", connected=False, why_away="dev-2 is offline: nobody listens")
UP = ObservedStream(attached=True)
DOWN = ObservedStream(why="dev-1: the head ended the stream")
TOLD = History(sent_addresses=(frozenset({"a:1"}),))


@pytest.mark.parametrize(
    ("stages", "stream", "history", "state", "actions"),
    [
        ((HERE,), UP, History(), Ready(), ()),
        ((HERE,), DOWN, History(), Attaching("dev-1: the head ended the stream"), ()),
        ((HERE,), ObservedStream(), History(), Attaching("attaching"), ()),
        ((AWAY, HERE), UP, History(), Waiting, ()),
        ((AWAY, LOST), UP, History(), Waiting, (Repair((1,)),)),  # what can be done is done meanwhile
        ((LOST,), UP, History(), Repairing("a device lost its stage, which is being loaded again"), (Repair((0,)),)),
        ((LOST,), UP, History(failure=Failure("no model 'tiny'", 1, 9.9, (LOST,))), Repairing("no model 'tiny'"), ()),  # too soon
        ((LOST,), UP, History(failure=Failure("no", 1, 9.5, (LOST,))), Repairing("no"), (Repair((0,)),)),
        ((LOST,), UP, History(failure=Failure("no", 4, 7.0, (LOST,))), Repairing("no"), ()),  # 4 s after the fourth
        ((LOST,), UP, History(failure=Failure("no", 4, 6.0, (LOST,))), Repairing("no"), (Repair((0,)),)),
        ((LOST,), UP, History(failure=Failure("no", 99, 5.0, (LOST,))), Repairing("no"), (Repair((0,)),)),  # never more than 5 s
        ((LOST,), UP, History(failure=Failure("no", 9, 9.9, (AWAY,))), Repairing("no"), (Repair((0,)),)),  # something has changed
        ((LOST,), UP, History(repairing=Repair((0,))), Repairing, ()),
        ((HERE,), UP, History(repairing=Repair((0,))), Repairing, ()),  # loaded, but the stream is the old one still
        ((HERE,), UP, History(repairing=Repair((), ring=True)), Ready(), ()),
        ((HERE,), UP, History(stale_stream=True), Repairing, (Reattach(),)),
        ((LOST,), UP, History(stale_stream=True), Repairing, (Reattach(),)),
        ((HERE,), ObservedStream(broken_at=3.0), TOLD, Attaching, (Look(),)),
        ((HERE,), ObservedStream(broken_at=3.0), replace(TOLD, looked_at=4.0), Attaching, ()),
        ((HERE,), ObservedStream(True, broken_at=5.0), replace(TOLD, looked_at=4.0), Ready(), (Look(),)),
        ((HERE,), ObservedStream(broken_at=3.0), History(sent_addresses=(frozenset({"old:1"}),)), Attaching, (Repair((), ring=True),)),
        ((HERE, AWAY), ObservedStream(broken_at=3.0), History(looked_at=4.0), Waiting, ()),  # nobody knows where it will be
    ],
)
def test_each_transition(
    stages: tuple[ObservedStage, ...], stream: ObservedStream, history: History, state: object, actions: tuple[object, ...]
) -> None:
    found = pipeline_phase(ObservedPipeline(stages, stream), history, now=10.0)
    if isinstance(state, type):
        assert type(found.state) is state
    else:
        assert found.state == state
    assert found.actions == actions
    assert pipeline_phase(ObservedPipeline(stages, stream, replaced=True), history, now=10.0) == phase.Phase(found.state, ())


@pytest.mark.parametrize(
    ("stages", "history", "replan_after", "actions"),
    [
        ((HERE, AWAY), History(away_since=4.0), 6.0, (Replan(),)),
        ((HERE, AWAY), History(away_since=4.1), 6.0, ()),  # too soon
        ((HERE, AWAY), History(away_since=4.0), None, ()),  # never
        ((HERE, AWAY), History(away_since=4.0, replanning=True), 6.0, ()),
        ((LOST, AWAY), History(away_since=4.0), 6.0, (Replan(),)),  # no use in loading what is to be moved
        ((LOST, AWAY), History(away_since=4.0, repairing=Repair((0,))), 6.0, ()),
        ((HERE, AWAY), History(away_since=-90.0, replan_failure=Failure("no room", 1, -4.9)), 6.0, ()),
        ((HERE, AWAY), History(away_since=-90.0, replan_failure=Failure("no room", 1, -5.0)), 6.0, (Replan(),)),
        ((HERE, HERE), History(), 6.0, ()),
    ],
)
def test_who_lacks_a_device_for_too_long_is_moved(
    stages: tuple[ObservedStage, ...], history: History, replan_after: float | None, actions: tuple[object, ...]
) -> None:
    assert pipeline_phase(ObservedPipeline(stages, UP), history, 10.0, replan_after=replan_after).actions == actions
    assert pipeline_phase(ObservedPipeline(stages, UP, replaced=True), history, 10.0, replan_after=replan_after).actions == ()


def test_who_comes_back_brings_hope_for_the_others() -> None:
    """Our own network was gone: the devices come back one after the other."""
    away = replace(AWAY, device_name="dev-1")
    history = phase.noticed(History(), ObservedPipeline((away, AWAY), UP), 0.0)
    history = phase.noticed(history, ObservedPipeline((away, AWAY), UP), 50.0)
    assert pipeline_phase(ObservedPipeline((away, AWAY), UP), history, 61.0, replan_after=60.0).actions == (Replan(),)
    history = phase.noticed(history, ObservedPipeline((HERE, AWAY), UP), 61.0)
    assert pipeline_phase(ObservedPipeline((HERE, AWAY), UP), history, 62.0, replan_after=60.0).actions == ()
    history = phase.noticed(history, ObservedPipeline((away, AWAY), UP), 63.0)  # it goes again: nobody else came back
    assert pipeline_phase(ObservedPipeline((away, AWAY), UP), history, 121.0, replan_after=60.0).actions == (Replan(),)


def test_what_cannot_be_moved_is_tried_less_and_less_often() -> None:
    history, waits = History(away=(1,), away_since=0.0), []
    for _ in range(8):
        history = phase.replan_failed(history, "no room", 1000.0)
        waits.append(next(w for w in range(1, 1000) if phase._must_move(history, 1000.0 + w, 60.0)))
    assert waits == [15, 30, 60, 120, 240, 480, 600, 600]


def test_a_waiting_pipeline_says_for_whom() -> None:
    found = pipeline_phase(ObservedPipeline((HERE, AWAY), UP), History(), 0.0).state
    assert found == Waiting("dev-2 is offline: nobody listens")
    stuck = phase.replan_failed(History(), "no room", 9.0)
    found = pipeline_phase(ObservedPipeline((HERE, AWAY), UP), stuck, 10.0).state
    assert found == Waiting("dev-2 is offline: nobody listens; it could not be moved to other devices: no room")
