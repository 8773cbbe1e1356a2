from __future__ import annotations

from dataclasses import replace

from fleet.planning.noise import evened
from fleet.planning.plan import PlanRequest
from fleet.planning.planner import PlannerDevice, plan
from protos.physics.roofline import Figures
from tests.fleet.planning.test_planner import GIB, a_model


def boards(*gigabytes_per_second: float, simulated: bool = False) -> list[PlannerDevice]:
    return [
        PlannerDevice(f"id{number}", f"board-{number}", "cpu", simulated, 8 * GIB, Figures(linear_bytes_per_second=1e9 * speed))
        for number, speed in enumerate(gigabytes_per_second)
    ]


def speeds(devices: list[PlannerDevice]) -> list[float]:
    return [device.figures.linear_bytes_per_second / 1e9 for device in devices]


def test_boards_of_one_kind_get_even_stages_whatever_each_has_measured() -> None:
    exact, noisy = (plan(a_model(), boards(*measured), PlanRequest("m", stages=4)) for measured in ([11.4] * 4, [11.3, 12.1, 10.6, 11.5]))
    layers = [[(stage.device_id, stage.first_layer, stage.stop_layer) for stage in result.stages] for result in (exact, noisy)]
    assert layers[0] == layers[1]
    assert min(stop - first for _, first, stop in layers[1]) > 1


def test_faster_boards_stay_faster() -> None:
    assert speeds(evened(boards(20.0, 10.0, 21.0, 10.4))) == [20.5, 10.2, 20.5, 10.2]


def test_the_faster_board_is_still_chosen_and_predicted_by_what_it_measured() -> None:
    slow, fast = boards(11.0, 12.0)
    result = plan(a_model(), [slow, fast], PlanRequest("m"))
    assert [stage.device_id for stage in result.stages] == [fast.device_id]
    assert result.decode_tokens_per_second == plan(a_model(), [fast], PlanRequest("m")).decode_tokens_per_second


def test_boards_are_parted_where_the_gap_is() -> None:
    assert speeds(evened(boards(10.0, 11.0, 12.4, 12.6, 20.0))) == [11.7, 11.7, 11.7, 11.7, 20.0]


def test_a_row_of_ever_faster_boards_is_not_made_one() -> None:
    assert speeds(evened(boards(10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0))) == [12.5] * 6 + [16.5] * 2


def test_figures_of_models_are_taken_at_their_word() -> None:
    assert speeds(evened(boards(10.0, 10.4, simulated=True))) == [10.0, 10.4]


def test_boards_of_two_kinds_are_not_compared() -> None:
    one, other = boards(10.0, 10.4)
    assert speeds(evened([one, replace(other, profile="npu")])) == [10.0, 10.4]


def test_boards_that_tell_nothing_stay_unknown() -> None:
    assert speeds(evened(boards(0.0, 0.0, 11.0))) == [0.0, 0.0, 11.0]
