"""The rules by which a run takes programs, and what it takes then."""

from __future__ import annotations

import pytest

from protos.errors import InvalidInput
from protos.physics.by_programs import ByPrograms, wanted
from protos.physics.costs import StageCost
from protos.physics.programs import JOULES, SPENT, ProgramTime, Room, StageTimes, context_for, contexts_for
from protos.physics.timing import Decode, Prefill, StageRun

LAUNCH = 0.5
MODEL = ByPrograms(idle_watts=2.0, launch_seconds=LAUNCH, joules_per_link_byte=0.1)


def a_program(sequences: int, rows: int, context: int, seconds: float) -> ProgramTime:
    return ProgramTime(Room(sequences, rows, context), (0.0, seconds, *(0.0,) * (len(SPENT) - 2)), (seconds, *(0.0,) * (len(JOULES) - 1)))


TIMES = StageTimes(
    (
        a_program(1, 1, 256, 1.0),
        a_program(4, 1, 256, 2.0),
        a_program(1, 16, 256, 3.0),
        a_program(1, 1, 512, 10.0),
        a_program(4, 1, 512, 20.0),
    ),
    (a_program(1, 1, 1, 100.0), a_program(2, 1, 1, 200.0)),
)


@pytest.mark.parametrize(
    ("run", "seconds"),
    [
        (StageRun(StageCost(), launches=3), 3 * LAUNCH),
        (StageRun(StageCost(), Decode((0,))), LAUNCH + 1),
        (StageRun(StageCost(), Decode((255,))), LAUNCH + 1),
        (StageRun(StageCost(), Decode((256, 3))), LAUNCH + 20),
        (StageRun(StageCost(), Decode((1, 2, 3, 4, 5))), 2 * LAUNCH + 4),  # five go through the program of four twice
        (StageRun(StageCost(), Prefill(0, 10)), LAUNCH + 3),
        (StageRun(StageCost(), Prefill(250, 6)), LAUNCH + 3),
        (StageRun(StageCost(), Prefill(250, 7)), 7 * LAUNCH + 70),  # of this context only a row by itself
        (StageRun(StageCost(), Prefill(5000, 1)), LAUNCH + 10),
        (StageRun(StageCost(), head_rows=3), 2 * LAUNCH + 400),
        (StageRun(StageCost(), Decode((0,)), head_rows=1), LAUNCH + 101),
        (StageRun(StageCost(), Decode((0,)), head_rows=1, launches=0), 101),
    ],
    ids=str,
)
def test_a_run_takes_what_its_programs_take(run: StageRun, seconds: float) -> None:
    found = MODEL.estimate(StageRun(**{**vars(run), "programs": TIMES}))
    assert found.seconds == pytest.approx(seconds)
    assert sum(found.breakdown.values()) == pytest.approx(found.seconds)
    assert found.joules == pytest.approx(found.seconds - found.breakdown["launch"])


def test_what_goes_over_a_link_costs_energy() -> None:
    assert MODEL.estimate(StageRun(StageCost(), Decode((0,)), link_bytes=50, programs=TIMES)).joules == pytest.approx(6.0)


def test_a_stage_that_nobody_told_of_is_refused() -> None:
    with pytest.raises(InvalidInput, match="was told of none"):
        MODEL.estimate(StageRun(StageCost(), Decode((0,))))
    with pytest.raises(InvalidInput, match="no program of the output head"):
        MODEL.estimate(StageRun(StageCost(), head_rows=1, programs=StageTimes(TIMES.layer_programs)))
    with pytest.raises(InvalidInput, match="no program of the layers"):
        MODEL.estimate(StageRun(StageCost(), Decode((0,)), programs=StageTimes((), TIMES.head_programs)))


def test_rooms_and_contexts() -> None:
    assert wanted(Prefill(10, 6)) == Room(1, 6, 16)
    assert wanted(Decode((4, 9, 2))) == Room(3, 1, 10)
    assert [context_for(positions, 3000) for positions in (1, 256, 257, 3000, 9999)] == [256, 256, 512, 3000, 3000]
    assert contexts_for(600, 3000) == (256, 512, 1024)
    assert contexts_for(1, 64) == (64,)
