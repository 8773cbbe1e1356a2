from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.deploying.desired import Desired, PipelineSpec, Policy, new_desired
from fleet.deploying.stored import FORM, Unreadable, read, write
from fleet.planning.plan import Covered, Pause, Plan, PlanRequest, StagePlan, Standby
from protos.ids import PipelineId

# Every field another than its default.
STAGE = StagePlan("a" * 16, "dev-1", "rk3588", True, 1, 7, ("embedding", "layers.1"), 10, 20, 1000, 30, 0.01, 0.1, True)
STAGES = (STAGE, replace(STAGE, decode_joules=None))
STANDBYS = (Standby("c" * 16, "dev-3", (Covered(1, replace(STAGE, device_id="c" * 16)),)),)
PLAN = Plan(
    "tiny",
    "0" * 64,
    "energy",
    64,
    2,
    3,
    32,
    STAGES,
    10.5,
    0.25,
    288,
    ("one",),
    "int8",
    "float16",
    STANDBYS,
    (Pause(1, 3.25, 0.5, 0.25, 2.5),),
    "pairs",
)
REQUEST = PlanRequest("tiny", "throughput", 2, 64, 6, ("dev-1", "site=a"), "int8", "float16", "pairs")
DESIRED = Desired(
    "chat",
    7,
    (PipelineSpec(PipelineId("chat-5"), 5, PLAN), PipelineSpec(PipelineId("chat-7"), 7, replace(PLAN, joules_per_token=None))),
    REQUEST,
)


@pytest.mark.parametrize("whole", [STAGE, PLAN, REQUEST])
def test_the_examples_leave_no_field_at_its_default(whole: StagePlan | Plan | PlanRequest) -> None:
    """A field that was added and is not written would come back as its default, unseen."""
    assert all(getattr(whole, field.name) != field.default for field in fields(whole))


@pytest.mark.parametrize(
    "desired",
    [
        DESIRED,
        replace(DESIRED, policy=Policy(None)),
        replace(DESIRED, policy=Policy(7.5)),
        replace(DESIRED, policy=Policy(7.5, standby=2)),
        replace(DESIRED, policy=Policy(exact_within_seconds=0.0)),
        replace(DESIRED, request=None),
        replace(DESIRED, request=PlanRequest("tiny")),
        new_desired("chat", 3, (PLAN, PLAN), None),
    ],
)
def test_what_was_written_is_read(desired: Desired) -> None:
    assert read(desired.name, desired.generation, write(desired)) == desired


def test_the_first_form_is_one_pipeline_under_the_id_its_devices_hold() -> None:
    text = json.dumps({"plan": dataclasses.asdict(PLAN)}, sort_keys=True)
    assert read("chat", 3, text) == Desired("chat", 3, (PipelineSpec(PipelineId("chat-3"), 3, PLAN),), None)


def test_the_oldest_plans_of_the_first_form_lack_what_was_added_to_it() -> None:
    before = replace(PLAN, kv_dtype="float32", wire_dtype="float32", decode="rows", stages=(replace(STAGE, hollow=False),))
    old = dataclasses.asdict(before)
    del old["kv_dtype"], old["wire_dtype"], old["decode"], old["stages"][0]["hollow"]
    found = read("chat", 3, json.dumps({"plan": old}))
    assert isinstance(found, Desired)
    plan = found.pipelines[0].plan
    assert (plan.kv_dtype, plan.wire_dtype, plan.decode, plan.stages[0].hollow) == ("float32", "float32", "rows", False)


def test_an_unknown_key_is_passed_over() -> None:
    plain = json.loads(write(DESIRED))
    del plain["sha256"]  # as an older version left it
    plain["since"] = 1
    plain["request"]["region"] = "north"
    plain["pipelines"][0]["plan"]["stages"][0]["rack"] = [1]
    assert read("chat", 7, json.dumps(plain)) == DESIRED


def test_a_value_that_is_not_what_was_stored_is_told() -> None:
    text = write(DESIRED)
    for before, after in [('"context": 64', '"context": 65'), ('"dev-1"', '"dev-2"'), ('"form": 2', '"form": 2, "x": 1')]:
        assert before in text
        found = read("chat", 7, text.replace(before, after, 1))
        assert isinstance(found, Unreadable)
        assert found.why == "it has changed on the disk: its sum is wrong"


def without(*path: str | int) -> str:
    return changed(lambda inner, key: inner.pop(key), *path)


def with_value(value: object, *path: str | int) -> str:
    return changed(lambda inner, key: inner.__setitem__(key, value), *path)


def changed(change: Callable[..., object], *path: str | int) -> str:
    plain = inner = json.loads(write(DESIRED))
    del plain["sha256"]
    *way, last = path
    for key in way:
        inner = inner[key]
    change(inner, last)
    return json.dumps(plain)


PLAN_IN = ("pipelines", 1, "plan")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("nonsense", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "the deployment is no JSON object"),
        ("{}", "the deployment has no plan"),
        ('{"plan": {}}', "its plan has no model"),
        (with_value(FORM + 1, "form"), f"form {FORM + 1}, and this version reads forms 1 to {FORM}"),
        (with_value("2", "form"), "form of the deployment is not a whole number"),
        (without("pipelines"), "no pipelines"),
        (with_value([], "pipelines"), "pipelines of the deployment is not a list of some"),
        (without("pipelines", 0, "epoch"), "one of its pipelines has no epoch"),
        (with_value(-1, "pipelines", 0, "epoch"), "not a whole number"),
        (with_value(1 << 63, "pipelines", 0, "epoch"), "not a whole number"),
        (with_value(True, "pipelines", 0, "epoch"), "not a whole number"),
        (without(*PLAN_IN, "model"), "its plan has no model"),
        (with_value(3, *PLAN_IN, "model"), "model of its plan is not text"),
        (with_value("speed", *PLAN_IN, "objective"), "objective of its plan is not one of latency"),
        (with_value([], *PLAN_IN, "stages"), "stages of its plan is not a list of some"),
        (with_value([1], *PLAN_IN, "why"), "why of its plan is not a list of texts"),
        (with_value("fast", *PLAN_IN, "decode_tokens_per_second"), "not a number"),
        (without(*PLAN_IN, "stages", 0, "simulated"), "one of its stages has no simulated"),
        (with_value(0, *PLAN_IN, "stages", 0, "simulated"), "not true or false"),
        (with_value("int4", "request", "kv_dtype"), "kv_dtype of its request is not one of float32, int8"),
        (without("request", "slots"), "its request has no slots"),
    ],
)
def test_what_cannot_be_read_says_why_in_a_line(text: str, why: str) -> None:
    found = read("chat", 7, text)
    assert isinstance(found, Unreadable)
    assert (found.name, found.generation, found.text) == ("chat", 7, text)
    assert why in found.why
    assert "\n" not in found.why


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["form", "plan", "pipelines", "x"]), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(max_size=30) | _json.map(json.dumps))
def test_no_text_raises(text: str) -> None:
    assert isinstance(read("chat", 1, text), Unreadable)


@given(st.sampled_from(["form", "pipelines", "request"]), _json)
def test_no_value_raises(key: str, value: object) -> None:
    found = read("chat", 7, with_value(value, key))
    assert isinstance(found, Desired | Unreadable)
