"""Many hollow devices behind one gateway: one endpoint, one certificate, one process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc.aio

from device.agent.device import Device
from device.agent.gateway_service import GatewayService
from device.agent.identity import Identity
from device.agent.member_service import MemberService
from device.agent.telemetry import ProcessReading, this_process
from protos.ids import DeviceId, member_id
from protos.net import transport
from protos.net.addresses import joined_address
from protos.net.transport import Methods, Network
from protos.v1 import device_pb2, gateway_pb2_grpc, telemetry_pb2
from sim_devices.hollow.blobs import HollowBlobs
from sim_devices.hollow.engine import HOLLOW
from sim_devices.hollow.hardware import HollowHardware
from sim_devices.profiles import Profile

GRACE_SECONDS = 0.5
PROCESS_SECONDS = 1.0  # between readings of the process that all of them share


@dataclass(frozen=True)
class HollowPlan:
    """Which devices there are: `count` of them, `<name>-1` and on, that take the profiles in turn."""

    name: str
    count: int
    profiles: Sequence[Profile]
    memory_bytes: int | None = None  # None: the profiles'


class HollowFleet:
    """An async context manager whose value is itself; `address` is where it serves."""

    def __init__(
        self,
        plan: HollowPlan,
        identity: Identity,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        network: Network = transport,
        clock: Callable[[], float] = time.monotonic,
        boot_ids: Callable[[], str] = lambda: os.urandom(16).hex(),
        process: Callable[[], ProcessReading] | None = None,
        membership: MemberService | None = None,
    ) -> None:
        """`identity` is the gateway's, `membership` what it answers of it; `clock` in seconds, monotonic; `process`: what each says that it
        takes of its machine."""
        self.gateway = identity.device_id
        self.address = ""
        self._plan = plan
        self._credentials = identity.credentials
        self._bind = joined_address(host, port)
        self._network = network
        self._clock = clock
        self._boot_ids = boot_ids
        self._membership = membership
        self._process = process or _shared_process(plan.count, clock)
        self.devices: dict[str, HollowDevice] = {}
        self._behind: dict[DeviceId, Methods] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._stop_all)
            for number in range(1, self._plan.count + 1):
                device = self.devices[str(number)] = self._device(number)
                await device.start()
            service = GatewayService(self._plan.name, self.devices)

            def register(server: grpc.aio.Server) -> None:
                gateway_pb2_grpc.add_GatewayServicer_to_server(service, server)
                if self._membership is not None:
                    self._membership.register(server)

            server, port = await self._network.serve(self._bind, self.gateway, self._credentials, register, self._behind)
            stack.push_async_callback(server.stop, GRACE_SECONDS)
            self.address = f"{self._bind.rpartition(':')[0]}:{port}"
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    def _device(self, number: int) -> HollowDevice:
        profile = self._plan.profiles[(number - 1) % len(self._plan.profiles)]
        device_id = member_id(self.gateway, str(number))

        def boot() -> Device:
            return Device(
                device_id,
                f"{self._plan.name}-{number}",
                HollowHardware(profile, memory_bytes=self._plan.memory_bytes, clock=self._clock),
                HollowBlobs(),
                self._credentials,
                labels={"gateway": self._plan.name},
                runtime=HOLLOW,
                boot_id=self._boot_ids(),
                process=self._process,
                clock=self._clock,
            )

        return HollowDevice(device_id, boot, self._behind)

    async def _stop_all(self) -> None:
        for device in self.devices.values():
            await device.stop()


class HollowDevice:
    """Implements device.gateway.Member; can be stopped and started as a board can, and then has forgotten everything."""

    def __init__(self, device_id: DeviceId, boot: Callable[[], Device], behind: dict[DeviceId, Methods]) -> None:
        self.device_id = device_id
        self._boot = boot
        self._behind = behind
        self._device: Device | None = None

    async def start(self) -> None:
        if self._device is None:
            self._device = await self._boot().__aenter__()
            self._behind[self.device_id] = Methods(self._device.register)

    async def stop(self) -> None:
        if self._device is not None:
            device, self._device = self._device, None
            del self._behind[self.device_id]
            await device.__aexit__(None, None, None)

    @property
    def answers(self) -> bool:
        return self._device is not None

    @property
    def boot_id(self) -> str:
        return self._running.boot_id

    def describe(self) -> device_pb2.DeviceDescription:
        return self._running.describe()

    def sample(self) -> telemetry_pb2.TelemetrySample:
        return self._running.sample()

    @property
    def _running(self) -> Device:
        assert self._device is not None, "ask only a device that answers"
        return self._device


def _shared_process(count: int, clock: Callable[[], float]) -> Callable[[], ProcessReading]:
    """Each device's even share of the one process, so that sums over devices are true; read once a second for all."""
    read = this_process()
    last = ProcessReading(0, 0.0)
    read_at: float | None = None

    def share() -> ProcessReading:
        nonlocal last, read_at
        now = clock()
        if read_at is None or now - read_at >= PROCESS_SECONDS:
            whole = read()
            last, read_at = ProcessReading(whole.rss_bytes // count, whole.cpu_seconds / count), now
        return last

    return share
