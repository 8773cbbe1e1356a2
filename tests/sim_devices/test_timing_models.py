"""The seam to timing models is wide enough for one that is no roofline: device, planner and prediction ask it alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fleet.planning.costs import REFERENCE_POSITIONS, stage_run
from fleet.planning.plan import PlanRequest
from fleet.planning.planner import PlannerDevice, plan
from fleet.planning.prediction import Prices, Traffic, outlook
from protos.physics.timing import Decode, TimingModel
from sim_devices.board import Board
from sim_devices.hardware import SimulatedHardware
from sim_devices.profiles import load_profile
from tests.support.checkpoints import TinyGlm
from tests.support.compiled_timing import Compiled
from tests.support.paged_timing import PAGE, Paged
from tests.support.ring import ring, tiny_model

PROFILE = load_profile("raspberry-pi-5")


def a_board(name: str, timing: TimingModel | None, memory_bytes: int = PROFILE.memory_bytes) -> PlannerDevice:
    return PlannerDevice(name, name, PROFILE.name, True, memory_bytes, PROFILE.effective, PROFILE.thermal, timing_model=timing)


@pytest.mark.parametrize("prompt", [38, 70])
async def test_device_and_prediction_give_one_figure(tmp_path: Path, prompt: int) -> None:
    """Each answer stays within a page, so that the prediction's mean context stands for every step of it."""
    model = tiny_model(tmp_path, TinyGlm(layers=4))
    board, count = a_board("a", Paged()), 21
    assert prompt // PAGE == (prompt + count) // PAGE
    made = plan(model[0], [board], PlanRequest("tiny", context=128))
    expected = outlook(model[0], made, {"a": board}, Traffic(prompt, count), Prices())
    hardware = SimulatedHardware(PROFILE, "fast", timing=Paged())
    async with ring(tmp_path / "one", *model, 1, hardware=[hardware], chunk=64, context=128) as one, one.client() as client:
        answer = await client.ask(list(range(3, 3 + prompt)), count)
    assert answer.finished
    timing = answer.finished.timing
    per_token = (timing.modelled_total_seconds - timing.modelled_first_token_seconds) / (count - 1)
    assert timing.modelled_first_token_seconds == pytest.approx(expected.first_token_seconds, rel=1e-9)
    assert per_token == pytest.approx(expected.token_seconds, rel=1e-9)
    assert expected.stages[0].spent.breakdown["pages"] == pytest.approx((prompt // PAGE + 1) * (4 * 10 + 3 + 1) * 1e-5)


def test_what_the_planner_says_of_a_stage_is_what_its_device_takes(tmp_path: Path) -> None:
    """To the nanoseconds that each run is rounded to; of every stage of a ring, by either model."""
    manifest, _ = tiny_model(tmp_path, TinyGlm(layers=4))
    for timing in (Paged(), Compiled(), PROFILE.roofline):
        boards = [a_board(name, timing) for name in "abc"]
        made = plan(manifest, boards, PlanRequest("tiny", stages=3, context=256))
        for place, stage in enumerate(made.stages):
            board = Board(timing, PROFILE.thermal, now=0.0)
            body = Decode((REFERENCE_POSITIONS,))
            runs = [stage_run(manifest, stage.parts, made.kv_dtype, body, link_bytes=made.hop_bytes)]
            runs += [stage_run(manifest, stage.parts, made.kv_dtype, head_rows=1)] * (place == 0)
            seconds = [board.begin(0.0, run).seconds for run in runs]
            assert stage.decode_seconds == pytest.approx(sum(seconds), abs=3e-9)


async def test_a_program_of_each_stage_is_timed_alike_by_device_and_prediction(tmp_path: Path) -> None:
    """It answers by which stage runs, not by what the stage costs: everybody who asks says which it is."""
    model, board = tiny_model(tmp_path, TinyGlm(layers=4)), a_board("a", Compiled())
    made = plan(model[0], [board], PlanRequest("tiny", context=128))
    expected = outlook(model[0], made, {"a": board}, Traffic(33, 21), Prices())
    hardware = SimulatedHardware(PROFILE, "fast", timing=Compiled())
    async with ring(tmp_path / "one", *model, 1, hardware=[hardware], chunk=64, context=128) as one, one.client() as client:
        answer = await client.ask(list(range(3, 36)), 21)
    assert answer.finished
    timing = answer.finished.timing
    per_token = (timing.modelled_total_seconds - timing.modelled_first_token_seconds) / 20
    assert timing.modelled_first_token_seconds == pytest.approx(expected.first_token_seconds, rel=1e-9)
    assert per_token == pytest.approx(expected.token_seconds, rel=1e-9)


def test_the_planner_chooses_by_the_model_it_is_given(tmp_path: Path) -> None:
    """The same boards but for their programs: one is compiled for short contexts, one slower and alike at all lengths."""
    manifest, _ = tiny_model(tmp_path, TinyGlm(layers=4))
    steep, flat = a_board("steep", Paged(page_seconds=1e-5)), a_board("flat", Paged(page_seconds=1e-6, launch_seconds=2e-3))
    chosen = {
        context: plan(manifest, [steep, flat], PlanRequest("tiny", stages=1, context=context)).stages[0].device_name
        for context in (PAGE, 256)
    }
    assert chosen == {PAGE: "steep", 256: "flat"}


def test_devices_are_of_a_kind_only_with_the_same_model(tmp_path: Path) -> None:
    """Of a kind the planner looks at no more devices than there are stages."""
    manifest, _ = tiny_model(tmp_path, TinyGlm(layers=4))
    slow = [a_board(f"slow-{number}", Paged(page_seconds=1e-3)) for number in range(3)]
    quick = a_board("the quick one", Paged())
    for boards in ([*slow, quick], [*slow, replace(quick, timing_model=None)]):
        (stage,) = plan(manifest, boards, PlanRequest("tiny", stages=1, context=128)).stages
        assert stage.device_name == "the quick one"
