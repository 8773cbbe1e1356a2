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
    ObservedStandby,
    ObservedStream,
    Ready,
    Reattach,
    Repair,
    Repairing,
    Replan,
    TakeOver,
    Waiting,
    pipeline_phase,
)
from protos.ids import DeviceId

HERE = ObservedStage("dev-1", connected=True, addresses=frozenset({"a:1"}), holds=True)
LOST = replace(HERE, holds=False)
AWAY = ObservedStage("dev-2", connected=False, why_away="dev-2 is offline: nobody listens")
UP = ObservedStream(attached=True)
GONE = replace(AWAY, why_away="dev-2 was removed from the fleet", removed=True)
ONE_AWAY = ObservedPipeline((HERE, AWAY))
DOWN = ObservedStream(why="dev-1: the head ended the stream")
RING_DOWN = ObservedStream(True, broken_at=5.0, why="dev-2 is silent")
AGAIN = "its ring broke, and is being connected again"
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
        # Only what connects is ready.
        ((HERE,), RING_DOWN, replace(TOLD, looked_at=4.0), Attaching(f"{AGAIN}: dev-2 is silent"), (Look(), Reattach())),
        ((HERE,), RING_DOWN, replace(TOLD, looked_at=5.0), Attaching, (Reattach(),)),
        ((HERE,), replace(RING_DOWN, idle=False), replace(TOLD, looked_at=5.0), Attaching, ()),  # what is asked will show
        ((HERE, AWAY), RING_DOWN, replace(TOLD, looked_at=5.0), Waiting, ()),  # it cannot connect
        ((LOST,), RING_DOWN, replace(TOLD, looked_at=5.0), Repairing, (Repair((0,)),)),
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
        # Whom the fleet has taken out nobody waits for.
        ((HERE, GONE), History(away_since=10.0), 6.0, (Replan(),)),
        ((HERE, GONE), History(away_since=10.0), None, (Replan(),)),
        ((AWAY, GONE), History(away_since=10.0), 6.0, (Replan(),)),
        ((HERE, GONE), History(away_since=10.0, replan_failure=Failure("no room", 1, 9.0)), 6.0, ()),
        ((replace(HERE, removed=True), HERE), History(), 6.0, ()),  # our own connection to it is about to end
    ],
)
def test_who_lacks_a_device_for_too_long_is_moved(
    stages: tuple[ObservedStage, ...], history: History, replan_after: float | None, actions: tuple[object, ...]
) -> None:
    assert pipeline_phase(ObservedPipeline(stages, UP), history, 10.0, replan_after=replan_after).actions == actions
    assert pipeline_phase(ObservedPipeline(stages, UP, replaced=True), history, 10.0, replan_after=replan_after).actions == ()


FOR_TWO = ObservedStandby(DeviceId("spare"), ready=frozenset({0, 1}))
FOR_ONE = ObservedStandby(DeviceId("other"), ready=frozenset({1}), preparing=frozenset({0}))
BROKEN = ObservedStream(True, broken_at=9.0)
LEAVING = replace(HERE, draining=True)
ALSO_AWAY = replace(AWAY, device_name="dev-1")


@pytest.mark.parametrize(
    ("stages", "stream", "history", "standbys", "actions", "due"),
    [
        ((HERE, AWAY), BROKEN, History(away_since=9.5), (FOR_TWO,), (TakeOver(((1, DeviceId("spare")),)),), None),
        ((HERE, AWAY), DOWN, History(away_since=9.5), (FOR_TWO,), (TakeOver(((1, DeviceId("spare")),)),), None),
        ((HERE, AWAY), BROKEN, History(away_since=9.6, looked_at=9.0), (FOR_TWO,), (), 10.1),  # it may be back in a moment
        ((HERE, GONE), UP, History(away_since=10.0), (FOR_TWO,), (TakeOver(((1, DeviceId("spare")),)),), None),  # it will not
        ((HERE, AWAY), UP, History(away_since=9.5), (FOR_TWO,), (), 19.5),  # only our own link has ended: the ring goes on
        ((HERE, AWAY), UP, History(away_since=0.0), (FOR_TWO,), (TakeOver(((1, DeviceId("spare")),)),), None),
        ((AWAY, HERE), DOWN, History(away_since=9.5), (FOR_ONE,), (), None),  # which has not got that stage yet
        ((LOST, AWAY), DOWN, History(away_since=9.5), (FOR_TWO,), (TakeOver(((1, DeviceId("spare")),)),), None),  # then what is lost
        ((LOST, AWAY), DOWN, History(away_since=9.5, repairing=Repair((0,))), (FOR_TWO,), (), None),
        ((HERE, AWAY), DOWN, History(away_since=9.5, replanning=True), (FOR_TWO,), (), None),
        ((HERE, AWAY), DOWN, History(away_since=9.5, replan_failure=Failure("no", 1, 9.6)), (FOR_TWO,), (), None),
        # Each that is away needs a standby of its own.
        ((ALSO_AWAY, AWAY), DOWN, History(away_since=9.5), (FOR_TWO,), (), None),
        (
            (ALSO_AWAY, AWAY),
            DOWN,
            History(away_since=9.5),
            (FOR_TWO, FOR_ONE),
            (TakeOver(((0, DeviceId("spare")), (1, DeviceId("other")))),),
            None,
        ),
        # Who is to be switched off is left as soon as another can have its stage, without a wait; else it is planned anew.
        ((HERE, LEAVING), UP, History(), (FOR_TWO,), (TakeOver(((1, DeviceId("spare")),)),), None),
        ((LEAVING, HERE), UP, History(), (FOR_ONE,), (), None),  # it is being sent
        ((LEAVING, HERE), UP, History(), (), (Replan(),), None),
        ((LEAVING, HERE), UP, History(replan_failure=Failure("no room", 1, 9.0)), (), (), None),
        ((LEAVING, AWAY), DOWN, History(away_since=9.5), (FOR_TWO,), (TakeOver(((1, DeviceId("spare")),)),), None),
        ((LEAVING, AWAY), DOWN, History(away_since=9.9, looked_at=9.9), (), (), None),  # nothing can be planned with a stage missing
    ],
)
def test_standbys_take_over(
    stages: tuple[ObservedStage, ...],
    stream: ObservedStream,
    history: History,
    standbys: tuple[ObservedStandby, ...],
    actions: tuple[object, ...],
    due: float | None,
) -> None:
    observed = ObservedPipeline(stages, stream, standbys=standbys)
    found = pipeline_phase(observed, history, now=10.0)
    assert (found.actions, found.due) == (actions, pytest.approx(due) if due else None)
    assert pipeline_phase(replace(observed, replaced=True), history, now=10.0).actions == ()
    if due is not None:
        [then] = pipeline_phase(observed, history, now=due).actions
        assert isinstance(then, TakeOver)


def test_while_a_standby_is_sought_nothing_is_planned_anew() -> None:
    observed = ObservedPipeline((LEAVING, HERE), UP, seeking=True)
    assert pipeline_phase(observed, History(), now=10.0).actions == ()
    assert type(pipeline_phase(observed, History(), now=10.0).state) is Ready  # it answers until it is left


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
        waits.append(next(w for w in range(1, 1000) if phase._must_move(ONE_AWAY, history, 1000.0 + w, 60.0)))
    assert waits == [15, 30, 60, 120, 240, 480, 600, 600]


def test_a_waiting_pipeline_says_for_whom() -> None:
    found = pipeline_phase(ObservedPipeline((HERE, AWAY), UP), History(), 0.0).state
    assert found == Waiting("dev-2 is offline: nobody listens")
    stuck = phase.replan_failed(History(), "no room", 9.0)
    found = pipeline_phase(ObservedPipeline((HERE, AWAY), UP), stuck, 10.0).state
    assert found == Waiting("dev-2 is offline: nobody listens; it could not be moved to other devices: no room")
