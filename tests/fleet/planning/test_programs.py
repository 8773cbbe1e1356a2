"""Devices that are timed by programs, as the planner asks them, and what is said of them beside their roofline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.planning.compared import WITHIN, compared, compared_lines
from fleet.planning.costs import PlannerDevice, stage_run
from fleet.planning.plan import PlanRequest
from fleet.planning.planner import plan
from fleet.planning.programs import CompiledTiming, with_programs
from protos.errors import InvalidInput, NoSpace
from protos.physics.roofline import Figures
from protos.physics.timing import Decode
from quantize.compiler.stage_times import SINGLE
from quantize.parts import stage_parts
from tests.quantize.families import CONFIGS
from tests.support.chips import CODESIGNED, GENERIC, unmade

MODEL = unmade(replace(CONFIGS["glm-edge"], layers=6), block_size=32)
FIGURES = Figures(linear_bytes_per_second=1e11, linear_macs_per_second=4e12, idle_watts=2.0, joules_per_byte=5e-11)
RUN = stage_run(MODEL, stage_parts(MODEL, 0, 6, head=True), "float32", Decode((100,)), head_rows=1)


def a_board(name: str, **more: object) -> PlannerDevice:
    board = PlannerDevice(name, name, "chip", True, 1 << 30, FIGURES, core=CODESIGNED, timed_by_programs=True)
    return replace(board, **more)  # type: ignore[arg-type]


def timing(board: PlannerDevice) -> CompiledTiming:
    (made,), _ = with_programs([board], MODEL)
    assert isinstance(made.timing_model, CompiledTiming)
    return made.timing_model


def test_the_planner_cuts_by_the_times_of_programs() -> None:
    """A board whose chip lacks every mechanism gets fewer layers."""
    boards, told = with_programs([a_board("a"), a_board("b", core=replace(GENERIC, launch_seconds=1e-5))], MODEL)
    assert told == []
    made = plan(MODEL, boards, PlanRequest("m", stages=2, context=64))
    layers = {stage.device_name: stage.stop_layer - stage.first_layer for stage in made.stages}
    assert layers["a"] > layers["b"]
    for stage in made.stages:
        assert stage.decode_seconds > 0


def test_times_of_a_model_are_of_no_other() -> None:
    other = unmade(CONFIGS["glm-4-0414"], block_size=32)
    with pytest.raises(InvalidInput, match="was asked for"):
        timing(a_board("a")).estimate(stage_run(other, stage_parts(other, 0, 1), "float32", Decode((1,))))


def test_equal_boards_are_of_one_kind_and_others_are_not() -> None:
    a, b, c = (timing(a_board(name, **more)) for name, more in (("a", {}), ("b", {}), ("c", {"core": GENERIC})))
    assert (a == b, hash(a) == hash(b), a == c) == (True, True, False)
    assert timing(a_board("d", runs_programs=True)).sizes == SINGLE


def test_boards_without_a_chip_are_as_before() -> None:
    plain = a_board("a", core=None, timed_by_programs=False)
    graphs = a_board("b", timed_by_programs=False)
    assert with_programs([plain, graphs], MODEL) == ([plain, graphs], [])


def test_those_that_cannot_are_left_out_and_all_together_refused() -> None:
    small = a_board("small", core=replace(CODESIGNED, scratchpad_bytes=1 << 12))
    able, told = with_programs([small, a_board("a")], MODEL)
    assert [board.name for board in able] == ["a"]
    assert told[0].startswith("left out: small: ")
    with pytest.raises(NoSpace, match=r"small: .* does not fit into small"):
        with_programs([small], MODEL)
    with pytest.raises(InvalidInput, match="a prefix that sees all of itself"):
        with_programs([a_board("a", runs_programs=True)], unmade(CONFIGS["glm2b-tiny"], block_size=32))
    with pytest.raises(InvalidInput, match="8-bit weights with zero points"):
        with_programs([a_board("a")], unmade(CONFIGS["glm-edge"], 8, 32, symmetric=False))


def test_a_difference_beyond_15_percent_is_named_with_its_cause() -> None:
    (slow,), _ = with_programs([a_board("a", core=replace(GENERIC, launch_seconds=1e-4))], MODEL)
    line = compared(slow, RUN)
    assert line
    assert "most of it is launch" in line
    assert "the mechanism one_launch" in line
    (quick,), _ = with_programs([a_board("a", figures=replace(FIGURES, operator_seconds=1e-3))], MODEL)
    line = compared(quick, RUN)
    assert line
    assert "most of it is launch" in line
    assert "fitted to what other software reached" in line


def test_an_agreement_is_no_cause() -> None:
    (board,), _ = with_programs([a_board("a")], MODEL)
    seconds = board.timing.estimate(RUN).seconds
    alike = replace(board, figures=Figures(launch_seconds=seconds * (1 + WITHIN / 2), idle_watts=2.0, linear_bytes_per_second=1e18))
    alike = replace(alike, figures=replace(alike.figures, linear_macs_per_second=1e18, attention_bytes_per_second=1e18))
    line = compared(alike, RUN)
    assert line
    assert "most of it" not in line
    assert compared(replace(board, timing_model=None), RUN) is None


def test_a_line_for_each_stage_that_is_timed_so() -> None:
    boards, _ = with_programs([a_board("a"), a_board("b", core=None, timed_by_programs=False)], MODEL)
    made = plan(MODEL, boards, PlanRequest("m", stages=2, context=64))
    (lines,) = compared_lines(MODEL, [made], boards)
    assert [line.partition(":")[0] for line in lines] == ["a"]
