"""One device without its network: host, telemetry and services over hardware, blobs and an engine, ready to be served."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import grpc.aio

from device.agent.device_service import DeviceService
from device.agent.hearing import Hearing
from device.agent.host import StageHost
from device.agent.pipeline_service import PipelineService
from device.agent.self_knowledge import SelfKnowledge
from device.agent.telemetry import ProcessReading, TelemetrySampler
from device.blobs import Blobs
from device.engine.engine import Runtime
from device.engine.opening import ONNX
from device.engine.prepacked import PrepackedStages
from device.hardware import Hardware
from device.publishers import Publishers
from protos.elapsed import elapsed
from protos.ids import DeviceId
from protos.net.transport import Credentials
from protos.v1 import device_pb2, device_pb2_grpc, pipeline_pb2_grpc, telemetry_pb2


class Device:
    """An async context manager; leaving it unloads everything. Closing the hardware is its owner's."""

    def __init__(
        self,
        device_id: DeviceId,
        name: str,
        hardware: Hardware,
        blobs: Blobs,
        credentials: Credentials | None,
        *,
        labels: Mapping[str, str],
        prepacked: PrepackedStages | None = None,
        publishers: Publishers | None = None,
        runtime: Runtime = ONNX,
        boot_id: str = "",
        process: Callable[[], ProcessReading] | None = None,
        clock: Callable[[], float] = elapsed,
        now: Callable[[], float] = time.time,
        hearing: Hearing | None = None,
    ) -> None:
        """`credentials` are for dialling neighbours; `boot_id`, `process` and `clock` as of Telemetry; `now` is the wall clock, in unix
        seconds; `hearing` knows who looks for devices."""
        self.device_id = device_id
        self._host = StageHost(device_id, hardware, blobs, credentials, prepacked, runtime.open_stage)
        self._telemetry = TelemetrySampler(
            device_id, hardware, self._host, boot_id=boot_id, process=process, clock=clock, storage_problem=lambda: blobs.problem
        )
        self.knowledge = knowledge = SelfKnowledge(credentials, hardware, now, hearing)
        self._service = DeviceService(
            device_id, name, dict(labels), hardware, blobs, publishers, self._host, self._telemetry, knowledge, runtime.dialect
        )
        self._pipelines = PipelineService(self._host, credentials)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._host)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    @property
    def boot_id(self) -> str:
        return self._telemetry.boot_id

    def register(self, server: grpc.aio.Server) -> None:
        """Add what it answers to a server."""
        device_pb2_grpc.add_DeviceServicer_to_server(self._service, server)
        pipeline_pb2_grpc.add_PipelineServicer_to_server(self._pipelines, server)

    def describe(self) -> device_pb2.DeviceDescription:
        return self._service.describe()

    def sample(self) -> telemetry_pb2.TelemetrySample:
        return self._telemetry.sample()
