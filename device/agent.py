"""The agent: composes identity, blob store, stages, services and announcement, and runs until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio

from device.announce import Announcement
from device.blobs import BlobStore
from device.engine.prepacked import PrepackedStages
from device.hardware import Hardware
from device.host import StageHost
from device.identity import insecure_identity, load_identity
from device.pipeline.service import PipelineService
from device.services import DeviceService
from device.telemetry import Telemetry
from protos import transport
from protos.v1 import device_pb2_grpc, pipeline_pb2_grpc

# A stream that is being written gets this long to end by itself.
GRACE_SECONDS = 0.5


@dataclass(frozen=True)
class AgentConfig:
    """`state` holds identity and blobs; `interfaces` are the IPv4 addresses to announce on."""

    state: Path
    name: str
    host: str
    port: int = 0
    interfaces: tuple[str, ...] = ("127.0.0.1",)
    insecure: bool = False
    labels: dict[str, str] = field(default_factory=dict)


async def run_agent(config: AgentConfig, hardware: Hardware, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called once with "host:port". Raises FleetError when it cannot start."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        stack.callback(hardware.close)
        address = await stack.enter_async_context(Agent(config, hardware))
        ready(address)
        await stop.wait()


class Agent:
    """An async context manager whose value is the address it serves at."""

    def __init__(self, config: AgentConfig, hardware: Hardware) -> None:
        self.config = config
        self._hardware = hardware
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> str:
        config = self.config
        identity = insecure_identity(config.state) if config.insecure else load_identity(config.state)
        blobs = await asyncio.to_thread(BlobStore, config.state / "blobs")
        async with AsyncExitStack() as stack:
            prepacked = await asyncio.to_thread(PrepackedStages, config.state / "prepacked", blobs.free_bytes)
            host = StageHost(identity.device_id, self._hardware, blobs, identity.credentials, prepacked)
            await stack.enter_async_context(host)
            telemetry = Telemetry(identity.device_id, self._hardware, host)
            device = DeviceService(identity.device_id, config.name, config.labels, self._hardware, blobs, host, telemetry)

            def register(server: grpc.aio.Server) -> None:
                device_pb2_grpc.add_DeviceServicer_to_server(device, server)
                pipeline_pb2_grpc.add_PipelineServicer_to_server(PipelineService(host, identity.credentials), server)

            bind = f"{config.host}:{config.port}"
            server, port = await transport.serve(bind, identity.device_id, identity.credentials, register)
            stack.push_async_callback(server.stop, GRACE_SECONDS)
            await stack.enter_async_context(Announcement(identity.device_id, identity.fleet_id, port, config.interfaces))
            self._stack = stack.pop_all()
        return f"{config.host}:{port}"

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()
