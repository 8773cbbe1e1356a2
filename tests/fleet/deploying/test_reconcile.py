from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.deploying.desired import Desired, wanted
from fleet.deploying.reconcile import Await, HeldStage, Load, Unload, reconcile, stale
from fleet.planning.plan import Plan, StagePlan
from protos.ids import DeviceId, PipelineId

DIGEST = "0" * 64


def stage_plan(device: str, first: int, stop: int, parts: tuple[str, ...]) -> StagePlan:
    return StagePlan(device, device, "fake", True, first, stop, parts, 10, 20, 1000, 10, 0.01, 0.1)


def plan(devices: tuple[str, ...], digest: str = DIGEST) -> Plan:
    stages = tuple(
        stage_plan(device, number, number + 1, ("positions", f"layers.{number}", *(("embedding", "head") if number == 0 else ())))
        for number, device in enumerate(devices)
    )
    return Plan("tiny", digest, "latency", 64, len(devices), 2, 32, stages, 10.0, None, 288, ("one line",))


def desired(devices: tuple[str, ...] = ("a", "b"), generation: int = 3) -> Desired:
    return wanted("chat", generation, (plan(devices),), None)


def held(wanted: Desired, number: int, pipeline: int = 0) -> HeldStage:
    spec = wanted.pipelines[pipeline]
    return HeldStage(
        deployment=wanted.name,
        generation=wanted.generation,
        pipeline_id=spec.pipeline_id,
        manifest_digest=spec.plan.manifest_digest,
        epoch=spec.epoch,
        stage=number,
        parts=frozenset(spec.plan.stages[number].parts),
        memory_bytes=30,
    )


A, B = DeviceId("a"), DeviceId("b")
CHAT = PipelineId("chat-3")
WANTED = desired()
DONE = {A: (held(WANTED, 0),), B: (held(WANTED, 1),)}


def test_nothing_to_do_when_all_is_held() -> None:
    assert reconcile(WANTED, DONE) == []


def test_empty_devices_load_their_stages() -> None:
    assert reconcile(WANTED, {A: (), B: ()}) == [Load(A, CHAT, 0), Load(B, CHAT, 1)]


def test_absent_device_is_waited_for() -> None:
    assert reconcile(WANTED, {B: ()}) == [Await(A, CHAT, 0), Load(B, CHAT, 1)]


@pytest.mark.parametrize(
    "other",
    [
        replace(held(WANTED, 1), manifest_digest="1" * 64),
        replace(held(WANTED, 1), epoch=2),
        replace(held(WANTED, 1), stage=0),
        replace(held(WANTED, 1), parts=frozenset({"layers.1"})),
        replace(held(WANTED, 1), pipeline_id=PipelineId("chat-2"), generation=2),
    ],
)
def test_another_stage_makes_room_first(other: HeldStage) -> None:
    assert reconcile(WANTED, {**DONE, B: (other,)}) == [Unload(B, "chat", 3, other.pipeline_id), Load(B, CHAT, 1)]


def test_stage_on_a_device_out_of_the_plan_is_unloaded() -> None:
    old = replace(held(WANTED, 0), pipeline_id=PipelineId("chat-2"), generation=2)
    assert reconcile(WANTED, {**DONE, DeviceId("c"): (old,)}) == [Unload(DeviceId("c"), "chat", 3, PipelineId("chat-2"))]


def test_newer_generations_and_other_deployments_are_left_alone() -> None:
    newer = replace(held(WANTED, 0), pipeline_id=PipelineId("chat-4"), generation=4)
    other = replace(held(WANTED, 0), deployment="other", pipeline_id=PipelineId("other-1"), generation=1)
    assert reconcile(WANTED, {**DONE, DeviceId("c"): (newer, other)}) == []


def test_stale_of_what_is_wanted_no_more() -> None:
    assert stale("chat", 4, DONE) == [Unload(A, "chat", 4, PipelineId("chat-3")), Unload(B, "chat", 4, PipelineId("chat-3"))]
    assert stale("chat", 2, DONE) == []


def test_two_versions_of_a_model_stand_side_by_side() -> None:
    """The ground for rollouts: each pipeline is judged by its own plan."""
    both = wanted("chat", 3, (plan(("a",)), plan(("b",), "1" * 64)), None)
    assert [spec.pipeline_id for spec in both.pipelines] == ["chat-3", "chat-3.1"]
    observed = {A: (held(both, 0, 0),), B: (held(both, 0, 1),)}
    assert reconcile(both, observed) == []
    swapped = {A: observed[B], B: observed[A]}
    assert reconcile(both, swapped) == [
        Unload(A, "chat", 3, PipelineId("chat-3.1")),
        Unload(B, "chat", 3, PipelineId("chat-3")),
        Load(A, PipelineId("chat-3"), 0),
        Load(B, PipelineId("chat-3.1"), 0),
    ]


@given(st.lists(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), max_size=3), min_size=3, max_size=3))
def test_doing_what_it_says_leaves_nothing_to_do(found: list[list[tuple[int, int]]]) -> None:
    """Whatever devices hold of this deployment's past, one pass is enough, and a second does nothing."""
    wanted = desired(("a", "b"), 4)
    observed = {
        # A device holds one stage of a pipeline at most.
        DeviceId(name): tuple(held(desired(("a", "b", "c"), generation), number) for generation, number in dict(stages).items())
        for name, stages in zip("abc", found, strict=True)
    }
    for action in reconcile(wanted, observed):
        match action:
            case Unload():
                observed[action.device] = tuple(one for one in observed[action.device] if one.pipeline_id != action.pipeline_id)
            case Load():
                observed[action.device] = (*observed[action.device], held(wanted, action.stage))
            case Await():
                raise AssertionError("all devices are there")
    assert reconcile(wanted, observed) == []
