from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.deploying.desired import Desired, new_desired
from fleet.deploying.reconcile import HeldStage, Observed, Unload, holds, stale
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
    return new_desired("chat", generation, (plan(devices),), None)


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


A, B, C = DeviceId("a"), DeviceId("b"), DeviceId("c")
WANTED = desired()
DONE: dict[DeviceId, tuple[HeldStage, ...]] = {A: (held(WANTED, 0),), B: (held(WANTED, 1),)}


def stale_of(wanted: Desired, observed: Observed) -> list[Unload]:
    return stale(wanted.name, wanted.generation, observed, keep=wanted.pipelines)


def lacking(wanted: Desired, observed: Observed) -> list[tuple[DeviceId, PipelineId, int]]:
    """Stages that their devices do not hold."""
    return [
        (device, spec.pipeline_id, number)
        for spec in wanted.pipelines
        for number, device in enumerate(spec.devices)
        if not holds(observed.get(device, ()), spec, number)
    ]


def test_what_is_wanted_is_held_and_not_stale() -> None:
    assert (lacking(WANTED, DONE), stale_of(WANTED, DONE)) == ([], [])
    assert lacking(WANTED, {A: (), B: ()}) == [(A, "chat-3", 0), (B, "chat-3", 1)]


@pytest.mark.parametrize(
    "change",
    [
        {"manifest_digest": "1" * 64},
        {"epoch": 2},
        {"stage": 0},
        {"parts": frozenset({"layers.1"})},
        {"pipeline_id": PipelineId("chat-2"), "generation": 2},
    ],
)
def test_a_stage_that_differs_in_anything_is_another(change: dict[str, Any]) -> None:
    other = replace(held(WANTED, 1), **change)
    found = {**DONE, B: (other,)}
    assert stale_of(WANTED, found) == [Unload(B, "chat", 3, other.pipeline_id)]
    assert lacking(WANTED, found) == [(B, "chat-3", 1)]


def test_stage_on_a_device_out_of_the_plan_is_unloaded() -> None:
    old = replace(held(WANTED, 0), pipeline_id=PipelineId("chat-2"), generation=2)
    assert stale_of(WANTED, {**DONE, C: (old,)}) == [Unload(C, "chat", 3, PipelineId("chat-2"))]


def test_newer_generations_and_other_deployments_are_left_alone() -> None:
    newer = replace(held(WANTED, 0), pipeline_id=PipelineId("chat-4"), generation=4)
    other = replace(held(WANTED, 0), deployment="other", pipeline_id=PipelineId("other-1"), generation=1)
    assert stale_of(WANTED, {**DONE, C: (newer, other)}) == []


def test_stale_of_what_is_wanted_no_more() -> None:
    assert stale("chat", 4, DONE) == [Unload(A, "chat", 4, PipelineId("chat-3")), Unload(B, "chat", 4, PipelineId("chat-3"))]
    assert stale("chat", 2, DONE) == []


def test_two_versions_of_a_model_stand_side_by_side() -> None:
    """The ground for rollouts: each pipeline is judged by its own plan."""
    both = new_desired("chat", 3, (plan(("a",)), plan(("b",), "1" * 64)), None)
    assert [spec.pipeline_id for spec in both.pipelines] == ["chat-3", "chat-3.1"]
    first, second = (held(both, 0, 0),), (held(both, 0, 1),)
    assert (lacking(both, {A: first, B: second}), stale_of(both, {A: first, B: second})) == ([], [])
    swapped = {A: second, B: first}
    assert stale_of(both, swapped) == [Unload(A, "chat", 3, PipelineId("chat-3.1")), Unload(B, "chat", 3, PipelineId("chat-3"))]
    assert lacking(both, swapped) == [(A, "chat-3", 0), (B, "chat-3.1", 0)]


@given(st.lists(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), max_size=3), min_size=3, max_size=3))
def test_unloading_what_is_stale_and_loading_what_lacks_leaves_nothing_to_do(found: list[list[tuple[int, int]]]) -> None:
    """Whatever devices hold of this deployment's past, one pass is enough."""
    wanted = desired(("a", "b"), 4)
    observed = {
        # A device holds one stage of a pipeline at most.
        DeviceId(name): tuple(held(desired(("a", "b", "c"), generation), number) for generation, number in dict(stages).items())
        for name, stages in zip("abc", found, strict=True)
    }
    for unload in stale_of(wanted, observed):
        observed[unload.device] = tuple(one for one in observed[unload.device] if one.pipeline_id != unload.pipeline_id)
    for device, _, number in lacking(wanted, observed):
        observed[device] = (*observed[device], held(wanted, number))
    assert (stale_of(wanted, observed), lacking(wanted, observed)) == ([], [])
