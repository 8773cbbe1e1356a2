from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from fleet.deploying.balancing import least_work
from fleet.deploying.desired import PipelineSpec, new_desired
from fleet.deploying.phase import PipelineState, Ready, Waiting
from protos.errors import Unavailable
from tests.fleet.deploying.test_reconcile import plan


@dataclass
class FakePipeline:
    spec: PipelineSpec
    predicted_wait: float = 1.0
    state: PipelineState = field(default_factory=Ready)


def pipelines() -> list[FakePipeline]:
    return [FakePipeline(spec) for spec in new_desired("chat", 1, tuple(plan((name,)) for name in "abc"), None).pipelines]


def test_the_one_with_the_least_work_that_answers() -> None:
    first, second, third = made = pipelines()
    assert least_work("chat", made) is first
    first.predicted_wait = 2.0
    assert least_work("chat", made) is second
    second.state = Waiting("dev-2 is offline")
    assert least_work("chat", made) is third
    assert least_work("chat", made, frozenset({third.spec.pipeline_id})) is first
    first.state = third.state = second.state
    assert least_work("chat", made) is second  # none answers: what it says tells why
    with pytest.raises(Unavailable, match="no other pipeline of chat"):
        least_work("chat", made, frozenset(each.spec.pipeline_id for each in made))
