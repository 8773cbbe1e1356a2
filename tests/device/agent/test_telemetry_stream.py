"""What comes on the stream of telemetry beside the samples of each interval."""

from __future__ import annotations

from pathlib import Path

import pytest

from device.pipeline.doubts import Doubts
from protos.ids import DeviceId, PipelineId
from protos.silence import Silence
from protos.v1 import device_pb2 as pb
from protos.v1 import telemetry_pb2
from tests.device.agent.test_device_service import _quick_start, device  # noqa: F401 (a fixture)


async def test_between_samples_come_beats_and_news_waits_for_no_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubts = Doubts()
    monkeypatch.setattr("device.agent.host.Doubts", lambda: doubts)
    async with device(tmp_path) as peer:
        request = pb.WatchTelemetryRequest(interval_seconds=0.8, beat_milliseconds=200)
        told = aiter(peer.device_stub.WatchTelemetry(request, metadata=peer.metadata))
        first, *beats, second = [await anext(told) for _ in range(5)]
        assert [(one.index, one.beat_milliseconds) for one in (first, second)] == [(0, 200), (1, 200)]
        assert beats == [telemetry_pb2.TelemetrySample()] * 3
        doubts.judged(PipelineId("tiny-1"), DeviceId("dev-2"), Silence(0.8, 0.25))
        assert (await anext(told)).index == 2
        request.beat_milliseconds = 0
        told = aiter(peer.device_stub.WatchTelemetry(request, metadata=peer.metadata))
        samples = [await anext(told), await anext(told)]
        assert all(sample.device_id and not sample.beat_milliseconds for sample in samples)
