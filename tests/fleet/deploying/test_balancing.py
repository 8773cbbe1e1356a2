from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from fleet.deploying.balancing import find, least_work, not_deployed
from fleet.deploying.desired import Desired, PipelineSpec, new_desired
from fleet.deploying.phase import PipelineState, Ready, Waiting
from fleet.deploying.stored import Unreadable
from protos.errors import Conflict, FleetError, InvalidInput, NotFound, Unavailable
from tests.fleet.deploying.test_reconcile import plan


@dataclass
class FakePipeline:
    spec: PipelineSpec
    predicted_wait: float = 1.0
    state: PipelineState = field(default_factory=Ready)
    leaving: bool = False


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
    first.leaving = True
    assert least_work("chat", made, frozenset({second.spec.pipeline_id})) is third
    third.predicted_wait = 9.0
    assert least_work("chat", made, frozenset({second.spec.pipeline_id})) is third
    first.leaving, third.predicted_wait = False, 1.0
    first.state = third.state = second.state
    assert least_work("chat", made) is second  # none answers: what it says tells why
    with pytest.raises(Unavailable, match="no other pipeline of chat"):
        least_work("chat", made, frozenset(each.spec.pipeline_id for each in made))


@dataclass
class FakeServing:
    desired: Desired
    answers: bool = True


def serving(name: str, model: str = "tiny", answers: bool = True) -> FakeServing:
    return FakeServing(new_desired(name, 1, (replace(plan(("a",)), model=model),), None), answers)


@pytest.mark.parametrize(
    ("model", "in_force", "found"),
    [
        ("chat", [serving("chat")], "chat"),
        ("tiny", [serving("chat")], "chat"),
        (None, [serving("chat")], "chat"),
        ("tiny", [serving("b"), serving("a")], "a"),
        ("tiny", [serving("b"), serving("a", answers=False)], "b"),
        ("tiny", [serving("a"), serving("tiny", "other", answers=False)], "tiny"),  # a name comes before a model
    ],
)
def test_which_deployment_is_meant(model: str | None, in_force: list[FakeServing], found: str) -> None:
    assert find(model, {one.desired.name: one for one in in_force}, [], {}, list).desired.name == found


BROKEN = Unreadable("chat", 3, "plan has no stages", "{}")


@pytest.mark.parametrize(
    ("model", "in_force", "coming", "error", "detail"),
    [
        (None, [], [], NotFound, "no model is deployed"),
        ("x", [serving("chat")], [], NotFound, "no model 'x' is deployed"),
        (None, [serving("a"), serving("b")], [], InvalidInput, "several models"),
        ("chat", [], [], Conflict, "plan has no stages"),
        ("new", [serving("a")], ["new"], Unavailable, "new is being deployed"),
        ("tiny", [], ["new"], Unavailable, "new is being deployed"),
        (None, [], ["new"], Unavailable, "new is being deployed"),
    ],
)
def test_why_none_is_meant(model: str | None, in_force: list[FakeServing], coming: list[str], error: type[FleetError], detail: str) -> None:
    with pytest.raises(error, match=detail):
        find(model, {one.desired.name: one for one in in_force}, [serving(name).desired for name in coming], {"chat": BROKEN}, list)


@pytest.mark.parametrize(
    ("model", "deployed", "imported", "advice"),
    [
        ("gpt-4", ["chat"], ["tiny"], "deployed: chat"),
        ("gpt-4", [], ["tiny"], "deploy one: glmfleet deploy tiny"),
        ("gpt-4", [], [], "get one first: glmfleet model pull smollm2-135m, then glmfleet deploy smollm2-135m"),
        ("tiny", ["chat"], ["other", "tiny"], "deployed: chat; or deploy it: glmfleet deploy tiny"),
        ("tiny", [], ["other", "tiny"], "deploy it: glmfleet deploy tiny"),
        (None, [], ["other", "tiny"], "deploy one: glmfleet deploy other"),
    ],
)
def test_only_a_model_that_is_here_is_advised(model: str | None, deployed: list[str], imported: list[str], advice: str) -> None:
    assert not_deployed(model, deployed, imported).advice == advice
