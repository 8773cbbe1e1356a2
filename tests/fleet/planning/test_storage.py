"""Plans and the disks of their devices: none is given what it cannot keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.planning.costs import PlannerDevice, weights
from fleet.planning.plan import Objective, Plan, PlanRequest
from fleet.planning.planner import plan
from fleet.planning.storage import Storage
from protos.errors import NoSpace
from protos.ids import Digest
from tests.fleet.planning.test_planner import MIB, OBJECTIVES, a_device, a_model

MODEL = a_model()
ALL = weights(MODEL, [part.name for part in MODEL.parts])
SIZE = sum(ALL.values())
READ_ONLY = "/blobs cannot be written to: the file system is read-only"


def stored(number: int, free_bytes: int, present: Iterable[Digest] = (), in_use: Iterable[Digest] = (), problem: str = "") -> PlannerDevice:
    return replace(a_device(number), storage=Storage(free_bytes, frozenset(present), frozenset(in_use), problem))


def names(result: Plan) -> list[str]:
    return [stage.device_name for stage in result.stages]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_disk_without_room_is_passed_over_and_that_is_said(objective: Objective) -> None:
    full = stored(0, 0, problem=READ_ONLY)
    result = plan(MODEL, [full, a_device(1)], PlanRequest("m", objective))
    assert names(result) == ["dev-1"]
    assert f"dev-0: no room on its disk: {READ_ONLY}" in result.why
    assert names(plan(MODEL, [a_device(0), a_device(1)], PlanRequest("m", objective))) == ["dev-0"]


def test_what_a_device_holds_already_needs_no_room() -> None:
    assert names(plan(MODEL, [stored(0, 0, ALL, problem=READ_ONLY)], PlanRequest("m"))) == ["dev-0"]
    lacking = next(iter(weights(MODEL, ["layers.29"])))
    with pytest.raises(NoSpace):
        plan(MODEL, [stored(0, 0, ALL.keys() - {lacking}, problem=READ_ONLY)], PlanRequest("m"))


def test_what_is_kept_makes_no_room() -> None:
    """Of a cache, all that is dropped makes room, but for what the new stage is to use; what a loaded stage uses was never counted."""
    half = set(weights(MODEL, [f"layers.{number}" for number in range(15)]))
    rest = SIZE - sum(ALL[digest] for digest in half)
    for free, in_use, fits in ((SIZE - 1, (), False), (SIZE, (), True), (rest - 1, half, False), (rest, half, True)):
        device = stored(0, free, half, in_use)
        if fits:
            assert names(plan(MODEL, [device], PlanRequest("m"))) == ["dev-0"]
        else:
            with pytest.raises(NoSpace):
                plan(MODEL, [device], PlanRequest("m"))


def test_a_small_disk_gets_as_many_layers_as_it_takes() -> None:
    small = stored(0, 20 * MIB)
    result = plan(MODEL, [small, stored(1, 140 * MIB)], PlanRequest("m"))
    assert names(result) == ["dev-1", "dev-0"]
    assert 0 < result.stages[1].push_bytes <= 20 * MIB
    assert result.why[0] == "fewer than 2 devices do not hold it, for room on their disks"
    assert "dev-0: room for 20.0 MiB on its disk" in result.why


def test_where_only_disks_are_too_small_that_is_said() -> None:
    with pytest.raises(NoSpace) as caught:
        plan(MODEL, [stored(0, 0, problem=READ_ONLY), stored(1, 30 * MIB)], PlanRequest("m"))
    assert caught.value.detail.startswith("the model (")
    assert f"not on their disks: dev-0: no room on its disk: {READ_ONLY}; dev-1: room for 30.0 MiB on its disk" in caught.value.detail
    assert "disk" in caught.value.advice
    with pytest.raises(NoSpace) as memory:  # then the lack of memory is what has to be told
        plan(MODEL, [replace(stored(0, 0), memory_bytes=MIB)], PlanRequest("m"))
    assert "disk" not in memory.value.detail


def test_of_many_full_disks_some_are_named() -> None:
    result = plan(MODEL, [*(stored(number, 0) for number in range(9)), a_device(10)], PlanRequest("m"))
    assert sum("on its disk" in line for line in result.why) == 3
    assert any(line.startswith("6 more devices") for line in result.why)


disks = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30), st.booleans()), min_size=1, max_size=5)


@given(disks, st.sampled_from(OBJECTIVES))
def test_no_stage_lacks_more_than_its_disk_takes(found: list[tuple[int, int, bool]], objective: Objective) -> None:
    devices = []
    for number, (free, layers, in_use) in enumerate(found):
        present = set(weights(MODEL, [f"layers.{layer}" for layer in range(30 - layers, 30)])) if layers else set()
        devices.append(stored(number, free * MIB, present, present if in_use else ()))
    try:
        result = plan(MODEL, devices, PlanRequest("m", objective))
    except NoSpace:
        return
    by_id = {device.device_id: device for device in devices}
    for stage in result.stages:
        storage, share = by_id[stage.device_id].storage, weights(MODEL, stage.parts)
        assert storage is not None
        lacking = sum(size for digest, size in share.items() if digest not in storage.present)
        kept = sum(size for digest, size in share.items() if digest in storage.present - storage.in_use)
        assert not lacking or lacking + kept <= storage.free_bytes
