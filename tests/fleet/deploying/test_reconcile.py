from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.deploying.desired import Desired, new_desired, with_stages_moved
from fleet.deploying.reconcile import HeldStage, Observed, Unload, holds, keeps_ready, stale
from fleet.planning.plan import Covered, Plan, StagePlan, Standby
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
        {"stage": 0},
        {"standby": True, "manifest_digest": "1" * 64},
        {"parts": frozenset({"layers.1"})},
        {"pipeline_id": PipelineId("chat-2"), "generation": 2},
    ],
)
def test_a_stage_that_differs_in_anything_is_another(change: dict[str, Any]) -> None:
    other = replace(held(WANTED, 1), **change)
    found = {**DONE, B: (other,)}
    assert stale_of(WANTED, found) == [Unload(B, "chat", 3, other.pipeline_id)]
    assert lacking(WANTED, found) == [(B, "chat-3", 1)]


def test_a_stage_of_another_epoch_is_loaded_again_and_not_dropped() -> None:
    """A load under the epoch that is wanted finds its weights."""
    found = {**DONE, B: (replace(held(WANTED, 1), epoch=2),)}
    assert stale_of(WANTED, found) == []
    assert lacking(WANTED, found) == [(B, "chat-3", 1)]


def with_standby(device: DeviceId, *stages: int) -> Desired:
    covers = tuple(Covered(stage, replace(plan(("a", "b")).stages[stage], device_id=device)) for stage in stages)
    return new_desired("chat", 3, (replace(plan(("a", "b")), standbys=(Standby(device, device, covers),)),), None)


def kept(wanted: Desired, *stages: int) -> tuple[HeldStage, ...]:
    return tuple(replace(held(wanted, stage), standby=True) for stage in stages)


def test_what_a_standby_keeps_is_not_stale_and_fulfils_nothing() -> None:
    wanted = with_standby(C, 0, 1)
    spec = wanted.pipelines[0]
    found = {**DONE, C: kept(wanted, 0, 1)}
    assert (stale_of(wanted, found), lacking(wanted, found)) == ([], [])
    assert [keeps_ready(found[C], spec, number) for number in (0, 1)] == [True, True]
    assert [holds(found[C], spec, number) for number in (0, 1)] == [False, False]
    assert not keeps_ready(DONE[A], spec, 0)


def test_what_no_standby_is_to_keep_is_stale() -> None:
    assert stale_of(with_standby(C, 0), {**DONE, C: kept(WANTED, 1)}) == [Unload(C, "chat", 3, PipelineId("chat-3"))]
    assert stale_of(WANTED, {**DONE, C: kept(WANTED, 1)}) == [Unload(C, "chat", 3, PipelineId("chat-3"))]
    # Its active stage is of no use there: it is no place of that device.
    assert stale_of(with_standby(C, 0), {**DONE, C: (held(WANTED, 0),)}) == [Unload(C, "chat", 3, PipelineId("chat-3"))]


def test_who_takes_over_keeps_what_it_has_until_it_enters_the_ring() -> None:
    wanted = with_stages_moved(with_standby(C, 0, 1), 4, PipelineId("chat-3"), {1: C})
    [spec] = wanted.pipelines
    assert (spec.devices, spec.epoch, spec.plan.standbys) == ((A, C), 4, ())
    found = {A: (held(WANTED, 0),), C: kept(WANTED, 0, 1)}
    assert stale_of(wanted, found) == []
    assert lacking(wanted, found) == [(A, "chat-3", 0), (C, "chat-3", 1)]
    # Who comes back with what it had is cleared.
    assert stale_of(wanted, {**found, B: (held(WANTED, 1),)}) == [Unload(B, "chat", 4, PipelineId("chat-3"))]


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
