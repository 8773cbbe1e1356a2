"""What a device makes of small messages that hold large things: one at a time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from device.agent import device_service
from device.agent.device_service import DeviceService
from device.stage_spec import StageSpec
from protos.v1 import device_pb2 as pb


async def test_one_stage_is_unpacked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []
    loading, go = asyncio.Event(), asyncio.Event()

    def parse(request: pb.LoadStageRequest) -> object:
        unpacked.append(request.stage)
        return SimpleNamespace(memory_bytes=1)

    class Host:
        async def load(self, spec: StageSpec, *, standby: bool) -> float:
            loading.set()
            await go.wait()
            return 0.0

    nothing: Any = None
    host: Any = Host()
    service = DeviceService(nothing, "dev", {}, nothing, nothing, None, host, nothing, nothing)
    monkeypatch.setattr(device_service, "parse_spec", parse)
    calls = [asyncio.create_task(service.LoadStage(pb.LoadStageRequest(stage=stage), nothing)) for stage in range(4)]
    await loading.wait()
    await asyncio.sleep(0)
    assert unpacked == [0]
    go.set()
    await asyncio.gather(*calls)
    assert unpacked == [0, 1, 2, 3]
