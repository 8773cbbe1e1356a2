"""Which spare devices keep which stages, and what the loss of a device is predicted to cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.planning.costs import PlannerDevice
from fleet.planning.plan import Plan, PlanRequest
from fleet.planning.planner import plan
from fleet.planning.standby import GRACE_SECONDS, LAG_SECONDS, lacking_line, lines, moved, with_standbys, without
from fleet.planning.storage import Storage
from tests.fleet.planning.test_planner import GIB, MIB, a_device, a_model

MODEL = a_model()
MADE = plan(MODEL, [a_device(number) for number in range(3)], PlanRequest("tiny", stages=3, context=256, slots=4))


def spare(number: int, memory_bytes: int = 8 * GIB, **changes: object) -> PlannerDevice:
    return replace(a_device(number, memory_bytes), keeps_standbys=True, **changes)  # type: ignore[arg-type]


def covered(made: Plan) -> dict[str, list[int]]:
    return {standby.device_name: [one.stage for one in standby.covers] for standby in made.standbys}


def sizes(made: Plan) -> list[int]:
    return [stage.weight_bytes + stage.kv_bytes for stage in made.stages]


def test_one_that_has_room_keeps_all() -> None:
    [made] = with_standbys(MODEL, [MADE], [spare(8)], 1)
    assert covered(made) == {"dev-8": [0, 1, 2]}
    assert replace(made, standbys=(), pauses=()) == MADE
    assert lines(made)[0] == "standby: dev-8 keeps all stages loaded"


def test_what_does_not_fit_is_left_out_the_smallest_first() -> None:
    order = sorted(range(3), key=lambda stage: -sizes(MADE)[stage])
    room = sizes(MADE)[order[0]] + sizes(MADE)[order[1]]
    [made] = with_standbys(MODEL, [MADE], [spare(8, room + 40 * MIB)], 1)  # with buffers
    assert covered(made) == {"dev-8": sorted(order[:2])}
    assert f"{order[2]} do" in lines(made)[0]


def test_a_disk_that_is_full_keeps_nothing_that_it_has_not() -> None:
    full = spare(8, storage=Storage(0))
    assert covered(with_standbys(MODEL, [MADE], [full], 1)[0]) == {}
    here = frozenset(blob.digest for part in MODEL.parts for blob in part.variants[0].blobs)
    assert covered(with_standbys(MODEL, [MADE], [replace(full, storage=Storage(0, here))], 1)[0]) == {"dev-8": [0, 1, 2]}


def test_the_second_covers_what_the_first_does_not() -> None:
    order = sorted(range(3), key=lambda stage: -sizes(MADE)[stage])
    small = [spare(number, sizes(MADE)[order[0]] + 40 * MIB) for number in (7, 8, 9)]
    [made] = with_standbys(MODEL, [MADE], small, 3)
    assert sorted(stage for stages in covered(made).values() for stage in stages) == [0, 1, 2]


def test_the_roomiest_is_taken_and_order_is_of_no_matter() -> None:
    some = [spare(7, 60 * MIB), spare(8), spare(9)]
    assert covered(with_standbys(MODEL, [MADE], some, 1)[0]) == covered(with_standbys(MODEL, [MADE], some[::-1], 1)[0])
    assert list(covered(with_standbys(MODEL, [MADE], some, 1)[0])) == ["dev-8"]


def test_who_cannot_keep_any_is_not_taken() -> None:
    old, hollow = replace(spare(7), keeps_standbys=False), replace(spare(8), hollow=True)
    assert covered(with_standbys(MODEL, [MADE], [old, hollow, spare(9)], 2)[0]) == {"dev-9": [0, 1, 2]}


def test_a_pause_is_made_of_its_parts() -> None:
    [made] = with_standbys(MODEL, [MADE], [spare(8)], 1)
    assert [pause.stage for pause in made.pauses] == [0, 1, 2]
    for pause in made.pauses:
        assert pause.seconds == pytest.approx(pause.noticed_seconds + pause.moved_seconds + pause.replayed_seconds)
        assert pause.noticed_seconds > GRACE_SECONDS
        # The spare is as quick as the others, so that tokens are decoded again as quickly as before.
        assert pause.replayed_seconds == pytest.approx(LAG_SECONDS, rel=1e-6)
    slow = replace(a_device(8, linear_bytes_per_second=1e9), keeps_standbys=True)
    [slower] = with_standbys(MODEL, [MADE], [slow], 1)
    assert all(after.seconds > before.seconds for before, after in zip(made.pauses, slower.pauses, strict=True))
    assert f"answers pause for {made.pauses[1].seconds:.1f} s" in lines(made)[2]


def test_a_stage_moves_alone() -> None:
    [made] = with_standbys(MODEL, [MADE], [spare(8), spare(9)], 2)
    after = moved(made, 1, "id0008")
    assert [stage.device_name for stage in after.stages] == [MADE.stages[0].device_name, "dev-8", MADE.stages[2].device_name]
    assert [stage.parts for stage in after.stages] == [stage.parts for stage in MADE.stages]
    assert covered(after) == {"dev-9": [0, 1, 2]}
    assert after.decode_tokens_per_second == pytest.approx(MADE.decode_tokens_per_second)
    assert covered(without(made, {"id0008", "id0009"})) == {}
    assert without(made, {"id0008", "id0009"}).pauses == ()


def test_pipelines_of_one_deployment_share_a_spare() -> None:
    made = with_standbys(MODEL, [MADE, MADE], [spare(8)], 1)
    assert [covered(one) for one in made] == [{"dev-8": [0, 1, 2]}] * 2
    other = replace(MADE, manifest_digest="another version")
    assert [covered(one) for one in with_standbys(MODEL, [other, MADE], [spare(8)], 1)] == [{}, {"dev-8": [0, 1, 2]}]


@pytest.mark.parametrize(
    ("spares", "why"),
    [
        ([], "no device is left that may be used"),
        ([replace(spare(8), keeps_standbys=False)], "dev-8 cannot keep a stage beside others"),
        ([spare(8, MIB)], "the smallest stage needs"),
    ],
)
def test_too_few_say_why(spares: list[PlannerDevice], why: str) -> None:
    made = with_standbys(MODEL, [MADE], spares, 1)
    assert covered(made[0]) == {}
    assert f"0 of the 1 standbys that were asked for: {why}" in lacking_line(MODEL, made, 1, spares)
    assert lacking_line(MODEL, with_standbys(MODEL, [MADE], [spare(8)], 1), 1, [spare(8)]) == ""
