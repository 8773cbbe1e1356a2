from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from fleet.answering.views import GenerateResult
from fleet.cli.demo_picture import picture
from fleet.planning.plan import Plan
from tests.support.fake_coordinator import PLAN, RESULT


def texts(drawn: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]


def test_devices_layers_cost_and_answer_are_in_it() -> None:
    stage = PLAN.stages[0]
    cost = replace(RESULT.devices[0], device_id=stage.device_id, joules=2.5, source="modelled", modelled_busy_seconds=0.5)
    found = texts(picture(PLAN, [("Who < what?", replace(RESULT, text="A & B", devices=(cost,)))]))
    assert stage.device_name in found
    assert f"layers {stage.first_layer} to {stage.stop_layer - 1}, head" in found
    assert "2.50 J modelled, busy 0.500 s" in found
    assert {"Who < what?", "A & B"} <= set(found)


@pytest.mark.parametrize("stages", [1, 8])
def test_any_number_of_devices_with_long_names_and_a_long_answer(stages: int) -> None:
    long = replace(PLAN.stages[0], device_name="n" * 64, profile="p" * 64)
    plan: Plan = replace(PLAN, stages=(long,) * stages)
    answer: GenerateResult = replace(RESULT, text="word " * 2000, devices=())
    found = texts(picture(plan, [("prompt " * 100, answer)]))
    assert max(map(len, found)) < 200
    assert len(found) < 60
