from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import Conflict
from protos.v1 import device_pb2, gateway_pb2, pipeline_pb2
from protos.versions import SPOKEN, Versions, in_common, versions_of

MESSAGES = [device_pb2.DeviceDescription, gateway_pb2.GatewayReport, pipeline_pb2.Attach, pipeline_pb2.FlowOpen, pipeline_pb2.FlowReply]
some_versions = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda pair: Versions(min(pair), max(pair)))


def telling(versions: Versions) -> device_pb2.DeviceDescription:
    return device_pb2.DeviceDescription(protocol_version=versions.newest, oldest_protocol_version=versions.oldest)


@pytest.mark.parametrize("message", MESSAGES)
def test_the_release_that_told_no_oldest_speaks_one_version(message: type[device_pb2.DeviceDescription]) -> None:
    assert versions_of(message(protocol_version=1)) == Versions(1, 1)
    assert versions_of(message(protocol_version=3, oldest_protocol_version=2)) == Versions(2, 3)


def test_this_release_works_with_the_one_before() -> None:
    assert in_common(device_pb2.DeviceDescription(protocol_version=1), "dev-1", "this coordinator") == 1
    assert SPOKEN.oldest <= SPOKEN.newest


@pytest.mark.parametrize(
    ("theirs", "ours", "agreed"),
    [(Versions(1, 1), Versions(1, 2), 1), (Versions(1, 2), Versions(2, 3), 2), (Versions(1, 3), Versions(1, 3), 3)],
)
def test_the_newest_that_both_speak(theirs: Versions, ours: Versions, agreed: int) -> None:
    assert in_common(telling(theirs), "dev-1", "this coordinator", ours) == agreed


@pytest.mark.parametrize(
    ("theirs", "ours", "line"),
    [
        (Versions(1, 2), Versions(3, 4), "dev-1: it speaks protocol 1 to 2, this coordinator 3 to 4; update dev-1"),
        (Versions(5, 5), Versions(3, 4), "dev-1: it speaks protocol 5, this coordinator 3 to 4; update this coordinator"),
        (Versions(0, 0), Versions(1, 1), "dev-1: it speaks protocol 0, this coordinator 1; update dev-1"),
    ],
)
def test_a_pair_without_one_is_told_which_to_update(theirs: Versions, ours: Versions, line: str) -> None:
    with pytest.raises(Conflict) as refused:
        in_common(telling(theirs), "dev-1", "this coordinator", ours)
    assert refused.value.detail == line


@given(some_versions, some_versions)
def test_both_sides_come_to_the_same(one: Versions, other: Versions) -> None:
    def asked(theirs: Versions, ours: Versions) -> int | None:
        try:
            return in_common(telling(theirs), "they", "we", ours)
        except Conflict:
            return None

    common = set(range(one.oldest, one.newest + 1)) & set(range(other.oldest, other.newest + 1))
    assert asked(one, other) == asked(other, one) == max(common, default=None)
