"""A ring of simulated devices: real results, and counters that hold every joule once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from device.hardware import EnergyReading
from fleet.planning.plan import PlanRequest
from fleet.planning.planner import PlannerDevice, plan
from fleet.planning.prediction import Prices, Traffic, outlook
from protos.v1 import telemetry_pb2
from sim_devices.hardware import SimulatedHardware
from sim_devices.profiles import load_profile
from tests.support.checkpoints import TinyGlm
from tests.support.ring import ring, tiny_model

PROFILES = [load_profile(name) for name in ("rk3588", "raspberry-pi-5", "snapdragon-8-elite")]
PROMPTS = ([3, 1, 4, 1, 5, 9], [2, 7, 1, 8], [1, 6, 1, 8, 0, 3, 3, 9])


async def test_results_are_real_and_energy_is_conserved(tmp_path: Path) -> None:
    """Token ids are those of one real device; what the requests used and what idling drew is what the counters say, within 1 %."""
    model = tiny_model(tmp_path, TinyGlm(layers=4))
    async with ring(tmp_path / "real", *model, 1) as one, one.client() as client:
        expected = [(await client.ask(prompt, 20)).token_ids for prompt in PROMPTS]
    hardware = [SimulatedHardware(profile, "fast") for profile in PROFILES]
    before = [item.energy() for item in hardware]
    async with ring(tmp_path / "simulated", *model, 3, hardware=hardware) as many, many.client() as client:
        answers = await asyncio.gather(*(client.ask(prompt, 20) for prompt in PROMPTS * 3))
        after = [item.energy() for item in hardware]
    assert [answer.token_ids for answer in answers] == expected * 3
    used, modelled_seconds = [0.0] * 3, [0.0] * 3
    for answer in answers:
        assert answer.finished
        for usage in answer.finished.usage:
            assert usage.source == telemetry_pb2.ENERGY_SOURCE_MODELLED
            used[usage.stage] += usage.joules
            modelled_seconds[usage.stage] += usage.modelled_busy_seconds
    for place, profile in enumerate(PROFILES):
        busy_seconds = modelled_seconds[place]
        first, last = before[place], after[place]
        idle_joules = profile.idle_watts * (last.elapsed_seconds - first.elapsed_seconds - busy_seconds)
        assert used[place] + idle_joules == pytest.approx(joules(last) - joules(first), rel=0.01)
        assert used[place] == pytest.approx(last.busy_joules, rel=0.01)
        assert used[place] > profile.idle_watts * busy_seconds  # something was computed


def joules(reading: EnergyReading) -> float:
    assert reading.busy_joules is not None
    assert reading.idle_joules is not None
    return reading.busy_joules + reading.idle_joules


async def test_a_prediction_is_the_modelled_time(tmp_path: Path) -> None:
    """The what-if and the simulated device count by one formula: within 5 % to the first token and for each after it."""
    model = tiny_model(tmp_path, TinyGlm(layers=4))
    profile, prompt, count = PROFILES[1], list(range(3, 53)), 41
    board = PlannerDevice("a", "a", profile.name, True, profile.memory_bytes, profile.effective, profile.thermal)
    made = plan(model[0], [board], PlanRequest("tiny", context=128))
    expected = outlook(model[0], made, {"a": board}, Traffic(len(prompt), count), Prices())
    async with (
        ring(tmp_path / "one", *model, 1, hardware=[SimulatedHardware(profile, "fast")], chunk=64, context=128) as one,
        one.client() as client,
    ):
        answer = await client.ask(prompt, count)
    assert answer.finished
    timing = answer.finished.timing
    assert timing.modelled_first_token_seconds == pytest.approx(expected.first_token_seconds, rel=0.05)
    per_token = (timing.modelled_total_seconds - timing.modelled_first_token_seconds) / (count - 1)
    assert per_token == pytest.approx(expected.token_seconds, rel=0.05)


@pytest.mark.parametrize("stages", [1, 3])
async def test_a_prompt_that_is_rated_takes_modelled_time_at_the_head_alone(tmp_path: Path, stages: int) -> None:
    model = tiny_model(tmp_path, TinyGlm(layers=4))
    hardware = [SimulatedHardware(profile, "fast") for profile in PROFILES[:stages]]
    prompts = [list(range(first, first + 40)) for first in (3, 60, 120)]
    wishes: tuple[dict[str, Any], ...] = ({}, {"embedding": True}, {"prompt_logprobs": 1})
    async with ring(tmp_path / "ring", *model, stages, hardware=hardware, chunk=64) as made, made.client() as client:
        ends = [(await client.ask(prompt, 0, **wish)).finished for prompt, wish in zip(prompts, wishes, strict=True)]
    plain, embedded, rated = ([usage.modelled_busy_seconds for usage in end.usage] for end in ends)
    assert embedded[1:] == pytest.approx(plain[1:])
    assert rated[1:] == pytest.approx(plain[1:])
    assert plain[0] <= embedded[0] < rated[0], "the head has the output matrix"


async def test_a_head_that_was_started_later_counts_no_more_than_the_others(tmp_path: Path) -> None:
    """Its modelled clock begins anew, and theirs are ahead: a request must not seem to have waited for what they did before."""
    model = tiny_model(tmp_path, TinyGlm(layers=4))
    hardware = [SimulatedHardware(profile, "fast") for profile in PROFILES]
    async with ring(tmp_path / "ring", *model, 3, hardware=hardware) as made:
        async with made.client() as client:
            [*_, before] = [(await client.ask([number, *PROMPTS[2]], 30)).finished for number in range(4)]
        await made.agents[0].__aexit__(None, None, None)
        await made.restart(0, SimulatedHardware(PROFILES[0], "fast"))
        async with made.client() as client:
            again = (await client.ask([9, *PROMPTS[2]], 30)).finished
    assert again is not None
    assert before is not None
    assert again.timing.modelled_first_token_seconds == pytest.approx(before.timing.modelled_first_token_seconds, rel=0.2)


@pytest.mark.parametrize("stages", [1, 2])
async def test_in_real_time_no_token_comes_before_its_modelled_time(tmp_path: Path, stages: int) -> None:
    model = tiny_model(tmp_path, TinyGlm(layers=4))
    hardware = [SimulatedHardware(PROFILES[1], "realtime") for _ in range(stages)]
    for item in hardware:
        item.set_slowdown(100)
    async with ring(tmp_path / "ring", *model, stages, hardware=hardware, chunk=64) as made, made.client() as client:
        answer = await client.ask(list(range(3, 53)), 2)
    assert answer.finished
    timing = answer.finished.timing
    assert timing.modelled_first_token_seconds > 0.01
    assert timing.first_token_seconds >= timing.modelled_first_token_seconds
    assert timing.total_seconds >= timing.modelled_total_seconds
