from __future__ import annotations

import pytest

from fleet.deploying.candidates import candidates, tight, with_present
from fleet.devices.record import DeviceRecord
from fleet.devices.views import DeviceState
from fleet.planning.costs import weights
from protos.errors import NotFound, Unavailable
from protos.ids import DeviceId
from protos.v1 import device_pb2 as pb
from tests.fleet.planning.test_storage import ALL, MODEL, SIZE

GIB = 1 << 30


def record(name: str, state: DeviceState = "online", dialect: str = "com.microsoft.nbits", **labels: str) -> DeviceRecord:
    description = pb.DeviceDescription(name=name, memory_bytes=4 * GIB, memory_used_bytes=GIB, dialects=[dialect], labels=labels)
    description.stages.add(memory_bytes=GIB // 2, generation=pb.Generation(deployment="chat", number=1))
    return DeviceRecord(DeviceId(f"id-{name}"), "127.0.0.1:1", "mdns", state, "nobody listens", True, description)


FLEET = [record("a", role="lamp"), record("b", role="lamp"), record("c", role="gate"), record("d", "offline"), record("e", dialect="other")]


@pytest.mark.parametrize(
    ("keys", "reserved", "names"),
    [
        ((), (), ["a", "b", "c"]),
        (("role=lamp",), (), ["a", "b"]),
        (("id-c", "b"), (), ["b", "c"]),
        (("role=lamp", "c"), ("id-a",), ["b", "c"]),
        ((), ("id-a", "id-b"), ["c"]),
    ],
)
def test_who_may_be_planned_for(keys: tuple[str, ...], reserved: tuple[str, ...], names: list[str]) -> None:
    found = candidates(FLEET, keys, replaces="other", reserved=[DeviceId(one) for one in reserved])
    assert [device.name for device in found] == names
    assert {device.memory_bytes for device in found} == {3 * GIB}


def test_stages_that_are_replaced_count_as_free() -> None:
    assert {device.memory_bytes for device in candidates(FLEET, (), replaces="chat")} == {3 * GIB + GIB // 2}


def test_what_a_device_really_holds_counts_where_it_is_more() -> None:
    device = record("a")
    assert device.description is not None
    for held, free, replaced in ((0, 3 * GIB, 3 * GIB + GIB // 2), (GIB, 3 * GIB, 3 * GIB + GIB // 2), (2 * GIB, 2 * GIB, 3 * GIB)):
        device.description.memory_held_bytes = held
        assert [one.memory_bytes for one in candidates([device], (), replaces="")] == [free]
        assert [one.memory_bytes for one in candidates([device], (), replaces="chat")] == [replaced]


@pytest.mark.parametrize(
    ("key", "error", "said"), [("z", NotFound, "no device 'z'"), ("role=door", NotFound, "label"), ("d", Unavailable, "d is offline")]
)
def test_a_key_of_nobody(key: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        candidates(FLEET, (key,), replaces="")


def disk(name: str, free_bytes: int, droppable_bytes: int | None, problem: str = "", parts: tuple[str, ...] = ()) -> DeviceRecord:
    found = record(name)
    assert found.description is not None
    found.description.storage_free_bytes = free_bytes
    found.description.storage_problem = problem
    if droppable_bytes is not None:
        found.description.storage_droppable_bytes = droppable_bytes
    found.description.stages.add(manifest_digest=MODEL.digest, parts=parts)
    return found


def test_only_disks_that_may_be_too_small_are_asked_what_they_have() -> None:
    fleet = [
        disk("a", SIZE, 0),
        disk("b", SIZE - 9, 9),
        disk("c", SIZE - 9, 8, parts=("layers.3",)),
        disk("d", 0, None),
        disk("e", 0, 0, "gone\nfor good"),
    ]
    found = candidates(fleet, (), replaces="")
    assert tight(found, MODEL) == ["id-c", "id-e"]
    layers = frozenset(digest for number in (3, 4) for digest in weights(MODEL, [f"layers.{number}"]))
    knowing = with_present(found, fleet, MODEL, {DeviceId("id-c"): layers})
    assert [device.storage and device.storage.free_bytes for device in knowing] == [None, None, SIZE - 1, None, 0]
    third, last = knowing[2].storage, knowing[4].storage
    assert third is not None
    assert last is not None
    assert (third.present, third.in_use) == (layers, frozenset(weights(MODEL, ["layers.3"])))
    assert (last.present, last.problem) == (frozenset(), "gone for good")
    assert ALL.keys() > layers
