from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from device.pipeline.scheduler import Scheduler
from device.pipeline.sequences import Request
from fleet.planning.plan import PlanRequest
from fleet.planning.planner import PlannerDevice
from fleet.planning.prediction import LinkModel, LinkModels, Outlook, Prices, Traffic, outlooks, wired
from protos.errors import NoSpace
from protos.physics.costs import StageCost
from protos.physics.roofline import Figures
from protos.physics.thermal import Thermal
from protos.physics.timing import Estimate, Prefill, StageRun
from tests.fleet.planning.test_planner import GIB, a_device, a_model

COOL = Thermal(2.0, 100.0, 25.0, 95.0, 85.0, 0.5)
MODEL = a_model()
ONE, FREE = Traffic(), Prices()


def a_board(number: int, profile: str = "a", thermal: Thermal = COOL, **figures: float) -> PlannerDevice:
    return replace(a_device(number, GIB * 8, cap_watts=20.0, **figures), profile=profile, thermal=thermal)


def look(devices: Sequence[PlannerDevice], traffic: Traffic = ONE, prices: Prices = FREE, links: LinkModels = wired) -> list[Outlook]:
    return outlooks(MODEL, devices, PlanRequest("m"), traffic, prices, links)


def test_each_kind_alone_and_each_number_of_stages() -> None:
    found = look([a_board(1, "a"), a_board(2, "b", linear_bytes_per_second=8e9), a_board(3, "a")])
    assert {len(one.stages) for one in found} == {1, 2, 3}
    assert {one.stages[0].plan.profile for one in found if len(one.stages) == 1} == {"a", "b"}
    placements = [tuple((s.plan.profile, s.plan.first_layer, s.plan.stop_layer) for s in one.stages) for one in found]
    assert len(set(placements)) == len(placements)
    assert [one.token_seconds for one in found] == sorted(one.token_seconds for one in found)


def test_power_is_energy_over_time_and_busy_shares_add_up() -> None:
    for one in look([a_board(1), a_board(2)]):
        assert one.joules_per_token is not None
        assert one.watts == pytest.approx(one.joules_per_token * one.tokens_per_second)
        assert one.watts == pytest.approx(sum(stage.watts for stage in one.stages))
        assert 0.9 < sum(stage.busy for stage in one.stages) <= 1.0


def test_one_stream_agrees_with_the_plan() -> None:
    """The planner's own prediction, at its length of the sequence."""
    for one in look([a_board(1), a_board(2)], Traffic(prompt=192, answer=128)):
        assert one.tokens_per_second == pytest.approx(one.plan.decode_tokens_per_second, rel=1e-4)
        assert one.joules_per_token == pytest.approx(one.plan.joules_per_token, rel=1e-4)


def test_streams_fill_the_ring_and_share_the_weights() -> None:
    one, four, many = (look([a_board(1), a_board(2)], Traffic(streams=streams)) for streams in (1, 4, 16))
    for alone, more, most in zip(*(sorted(found, key=lambda x: len(x.stages)) for found in (one, four, many)), strict=True):
        assert alone.tokens_per_second < more.tokens_per_second < most.tokens_per_second
        assert alone.token_seconds <= more.token_seconds <= most.token_seconds
    ring = max(four, key=lambda x: len(x.stages))
    assert sum(stage.busy for stage in ring.stages) > 1.2  # both at work at once


def test_a_longer_prompt_takes_longer_to_its_first_token() -> None:
    short, long = (look([a_board(1)], Traffic(prompt=prompt))[0] for prompt in (64, 1024))
    assert short.first_token_seconds < long.first_token_seconds
    assert short.tokens_per_second > long.tokens_per_second


def test_a_board_that_gets_too_hot_is_slower_and_says_so() -> None:
    stuffy = replace(COOL, kelvin_per_watt=10.0, throttle_celsius=60.0, resume_celsius=55.0, ambient_celsius=0.0)
    (cool,), (hot,) = look([a_board(1, joules_per_byte=3e-10)]), look([a_board(1, thermal=stuffy, joules_per_byte=3e-10)])
    assert cool.stages[0].speed == 1.0
    assert hot.stages[0].speed < 1.0
    assert hot.tokens_per_second == pytest.approx(cool.tokens_per_second * hot.stages[0].speed)
    assert hot.stages[0].celsius is not None
    assert hot.stages[0].celsius <= 60.0


def test_money_is_energy_and_boards() -> None:
    (free,) = look([a_board(1)])
    assert free.cost_per_million_tokens is None
    (energy,) = look([a_board(1)], prices=Prices(per_kwh=0.3))
    assert energy.joules_per_token is not None
    assert energy.cost_per_million_tokens == pytest.approx(0.3 * energy.joules_per_token * 1e6 / 3.6e6)
    (both,) = look([a_board(1)], prices=Prices(0.3, {"a": 100.0}, years=2.0))
    million_seconds = 1e6 / both.tokens_per_second
    assert both.cost_per_million_tokens == pytest.approx(
        (energy.cost_per_million_tokens or 0) + 100 * million_seconds / (2 * 365.25 * 86400)
    )


def test_no_energy_where_none_is_told() -> None:
    silent = replace(a_board(1), figures=Figures(linear_bytes_per_second=1e10))
    (one,) = look([silent], prices=Prices(per_kwh=0.3))
    assert (one.watts, one.joules_per_token, one.cost_per_million_tokens) == (None, None, None)


def test_what_fits_nowhere_says_what_is_missing() -> None:
    with pytest.raises(NoSpace, match="needs"):
        look([replace(a_board(1), memory_bytes=10**6)])


@dataclass(frozen=True)
class Slowing:
    """A timing model whose rows take longer the further on they are; it keeps what it was asked."""

    asked: list[StageRun] = field(default_factory=list, compare=False)
    idle_watts: float = 1.0

    def estimate(self, run: StageRun) -> Estimate:
        self.asked.append(run)
        seconds = 0.001
        if isinstance(run.body, Prefill):
            seconds += sum(0.004 * (1 + (run.body.start + row) / 400) for row in range(run.body.rows))
        return Estimate(seconds, 0.0, {"all": seconds})


def test_prompts_are_cut_as_devices_cut_them() -> None:
    """A device's own scheduler, told the times that the model predicts, makes the very chunks of the prediction."""
    timing, prompt = Slowing(), 700
    board = replace(a_board(1), timing_model=timing)
    (found,) = look([board], Traffic(prompt=prompt))
    predicted = [run.body.rows for run in timing.asked if isinstance(run.body, Prefill)]
    scheduler = Scheduler(1, 2, 2000, found.plan.prefill_chunk)
    scheduler.submit(Request(tuple(range(prompt)), max_tokens=1))
    made: list[int] = []
    while (step := scheduler.next_step()) and step.prefill:
        rows = len(step.tokens)
        run = StageRun(StageCost(), Prefill(sum(made), rows), head_rows=len(step.wanted))
        scheduler.chunks = scheduler.chunks.measured(rows, timing.estimate(run).seconds)
        scheduler.complete(step, {sequence: [0] for sequence in step.wanted})
        made.append(rows)
    assert predicted == made
    assert len(set(made)) > 4  # neither the most nor the least all along


def test_links_take_their_delay_and_their_rate_of_every_token() -> None:
    """Of three directions; a device alone has none."""
    delays = {("1", "2"): 0.010, ("2", "3"): 0.020, ("3", "1"): 0.040}

    def slow(source: str, target: str) -> LinkModel:
        return LinkModel(delays.get((source[-1], target[-1]), 0.0), 1e4)

    devices = [a_board(number) for number in (1, 2, 3)]
    plain, linked = ({len(one.stages): one for one in look(devices, links=links)} for links in (wired, slow))
    assert linked[1] == plain[1]
    assert plain[1].hops_seconds == 0.0
    row_seconds = MODEL.config.hidden_size * 4 / 1e4
    more = linked[3].token_seconds - plain[3].token_seconds
    assert more == pytest.approx(0.070 + 3 * row_seconds, rel=0.01)
    assert linked[3].hops_seconds - plain[3].hops_seconds == pytest.approx(more)
    # 128 tokens in two chunks: all rows over two links, the last one over the third.
    more = linked[3].first_token_seconds - plain[3].first_token_seconds
    assert more == pytest.approx(2 * 0.070 + (2 * 128 + 1) * row_seconds, rel=0.01)


def test_a_slow_link_bounds_many_streams() -> None:
    found = look([a_board(1), a_board(2)], Traffic(streams=16), links=lambda *_: LinkModel(bytes_per_second=1e4))
    ring = max(found, key=lambda one: len(one.stages))
    assert ring.tokens_per_second == pytest.approx(1e4 / (MODEL.config.hidden_size * 4), rel=0.01)
