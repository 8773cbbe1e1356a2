"""A short run of the fuzzer over every method, against real agents; longer ones: python -m benchmarks.fuzz."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.message import DecodeError

from benchmarks import fuzz
from benchmarks.fuzz import fuzz_all
from benchmarks.fuzz_messages import DEFECTS, Fuzzer
from protos.net.transport import dial
from protos.v1 import pipeline_pb2
from tests.support.fake_device import FakeDevice
from tests.support.members import TestFleet, credentials_of
from tests.support.methods import every_method


@pytest.mark.parametrize("messages", [60, pytest.param(250, marks=pytest.mark.long)])
async def test_no_message_is_a_defect_or_ends_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: int) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 5.0)  # other tests have the processor, too
    found = await fuzz_all(tmp_path, messages, seed=7)
    assert found.keys() == {str(method) for method in every_method()}
    for name, outcome in found.items():
        assert outcome.faults == [], name
        assert "INVALID_ARGUMENT" in outcome.statuses, name  # some were none
    assert sum(len(outcome.statuses) > 1 for outcome in found.values()) >= 12  # and some were


def test_the_same_seed_makes_the_same_messages_and_they_are_of_all_kinds() -> None:
    good = [pipeline_pb2.GenerateRequest(attach=pipeline_pb2.Attach(pipeline_id="p", epoch=1)).SerializeToString()]
    one, other = (Fuzzer(random.Random(3), ["p", 1]) for _ in range(2))
    made = [one.message(pipeline_pb2.GenerateRequest, good) for _ in range(300)]
    assert made == [other.message(pipeline_pb2.GenerateRequest, good) for _ in range(300)]
    read = 0
    for data in made:
        try:
            pipeline_pb2.GenerateRequest.FromString(data)
        except DecodeError:
            continue
        read += 1
    assert 50 < read < 250
    for defect in DEFECTS:
        assert any(defect(random.Random(n), good[0]) != good[0] for n in range(20))


@pytest.mark.parametrize("method", every_method(), ids=str)
async def test_what_is_no_message_is_refused_without_a_traceback(tmp_path: Path, method, caplog: pytest.LogCaptureFixture) -> None:
    fleet = TestFleet.open(tmp_path)
    caller = fleet.member("caller", "device" if method.name in ("Flow", "Mirror") else "coordinator")
    async with FakeDevice(fleet.member("dev-1"), "dev-1") as device:
        peer = dial(device.address, device.device, credentials_of(caller))
        try:
            made: Any = peer.channel.stream_stream(method.path)
            call = made(iter([b"\xff"]), metadata=peer.metadata, timeout=10)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in call:
                    pass
            served = method.service in ("Device", "Pipeline") and method.name not in ("Flow", "Mirror")  # by the fake
            if served:
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert "cannot be read as a message" in (caught.value.details() or "")
                assert caplog.records == []
        finally:
            await peer.close()
