from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from fleet.deploying.desired import PipelineSpec, new_desired
from fleet.deploying.phase import PipelineState, Ready, Waiting
from fleet.deploying.selection import candidates, least_work
from fleet.devices.record import DeviceRecord
from fleet.devices.views import DeviceState
from protos.errors import NotFound, Unavailable
from protos.ids import DeviceId
from protos.v1 import device_pb2 as pb
from tests.fleet.deploying.test_reconcile import plan

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


@pytest.mark.parametrize(
    ("key", "error", "said"), [("z", NotFound, "no device 'z'"), ("role=door", NotFound, "label"), ("d", Unavailable, "d is offline")]
)
def test_a_key_of_nobody(key: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        candidates(FLEET, (key,), replaces="")


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
