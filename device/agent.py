"""The agent: composes identity, blob store, device, server and announcement, and runs until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from device.announce import Announcement
from device.blobs import BlobStore
from device.device import Device
from device.engine.prepacked import PrepackedStages
from device.hardware import Hardware
from device.identity import insecure_identity, load_identity
from protos import transport

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
            me, credentials = identity.device_id, identity.credentials
            device = Device(me, config.name, self._hardware, blobs, credentials, labels=config.labels, prepacked=prepacked)
            await stack.enter_async_context(device)
            bind = f"{config.host}:{config.port}"
            server, port = await transport.serve(bind, me, credentials, device.register)
            stack.push_async_callback(server.stop, GRACE_SECONDS)
            await stack.enter_async_context(Announcement(me, identity.fleet_id, port, config.interfaces))
            self._stack = stack.pop_all()
        return f"{config.host}:{port}"

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()
