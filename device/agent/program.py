"""The agent: composes identity, blob store, device, server and announcement, and runs until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import grpc.aio

from device.agent.announce import Announcement
from device.agent.device import Device
from device.agent.dial_out import dial_out
from device.agent.enrolling import Enrollable
from device.agent.hearing import Hearing
from device.agent.identity import Expired, has_expired, insecure_identity, is_member, load_identity, utc_now
from device.agent.member_service import MemberService
from device.agent.membership import leave, pinned_authority
from device.agent.only import only_agent
from device.agent.status import AgentStatus, HeardFrom, keep_status
from device.blobs import BlobStore, Disk
from device.engine.engine import Runtime
from device.engine.opening import ONNX
from device.engine.prepacked import PrepackedStages
from device.engine.warm import warm_up
from device.hardware import Hardware
from device.memory import use_one_heap
from device.publishers import Publishers
from device.tasks import first_of
from protos.enrolment import Token
from protos.net import transport
from protos.net.addresses import joined_address
from protos.net.credentials import Credentials
from protos.recent_log import recent_log

# A stream that is being written gets this long to end by itself.
GRACE_SECONDS = 0.5
DISK_SECONDS = 60.0  # between two looks, each of which writes 4 KiB
EXPIRY_SECONDS = 5.0  # between two looks at the clock: a timer stands still while the machine sleeps

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AgentConfig:
    """`state` holds identity and blobs; `interfaces` are those to announce on, by name or address, with `announced_port` where others
    reach us through another than our own (a port that is forwarded)."""

    state: Path
    name: str
    host: str
    port: int = 0
    interfaces: tuple[str, ...] = ("127.0.0.1",)
    insecure: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    announced_port: int | None = None
    token: Token | None = None  # by which a fleet may take the board in, while it belongs to none
    coordinator: str = ""  # "host:port" of its API: to be dialled, since nobody can dial us; "": somebody can


async def run_agent(
    config: AgentConfig,
    hardware: Hardware,
    ready: Callable[[str], None],
    *,
    runtime: Runtime = ONNX,
    disk: Disk | None = None,
    clock: Callable[[], datetime] = utc_now,
    waiting: Callable[[Enrollable], None] = lambda board: None,
    refused: Callable[[str, str], None] = lambda why, advice: None,
    removed: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called with "host:port" when it does, `waiting` before that while the board belongs to no
    fleet, `refused` when its token lets it into none, `removed` when its fleet has taken it out. One that is told to leave its fleet is
    a board of none, and waits; so does one whose certificate ended while nobody could renew it. Raises FleetError when it cannot start."""
    recent_log()
    use_one_heap()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        stack.callback(hardware.close)
        stack.enter_context(only_agent(config.state))
        await asyncio.to_thread(warm_up)
        while not stop.is_set():
            if not await _is_member(config, hardware, stop, waiting, clock, refused):
                return
            agent = Agent(config, hardware, runtime, disk=disk, clock=clock)
            async with agent as address:
                ready(address)
                await first_of(_happens(stop), _happens(agent.left), agent.expired())
            if agent.left.is_set():
                await asyncio.to_thread(leave, config.state, wipe=True)
                removed()


async def _happens(event: asyncio.Event) -> None:
    await event.wait()


async def _is_member(
    config: AgentConfig,
    hardware: Hardware,
    stop: asyncio.Event,
    waiting: Callable[[Enrollable], None],
    clock: Callable[[], datetime],
    refused: Callable[[str, str], None],
) -> bool:
    """Wait until a fleet has taken the board in, or given it a certificate that is good now; False: we were told to stop first."""
    if config.insecure:
        return True
    returns = None
    if is_member(config.state):
        try:
            await asyncio.to_thread(load_identity, config.state, clock)
            return True
        except Expired as expired:
            returns = pinned_authority(config.state)
            _log.warning("%s; it asks its fleet for another", expired.detail)
    bind = joined_address(config.host, config.port)
    board = Enrollable(
        config.state,
        config.name,
        hardware.info.description,
        bind,
        token=None if returns else config.token,
        returns=returns,
        clock=clock,
        interfaces=config.interfaces,
        announced_port=config.announced_port,
        refused=refused,
    )
    async with board:
        waiting(board)
        taken, stopped = asyncio.ensure_future(board.taken()), asyncio.ensure_future(stop.wait())
        await asyncio.wait({taken, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for one in (taken, stopped):
            one.cancel()
        return taken.done() and not taken.cancelled()


async def until_expired(credentials: Credentials | None, clock: Callable[[], datetime] = utc_now) -> None:
    """For ever where there are none."""
    while credentials is None or not has_expired(credentials, clock()):  # noqa: ASYNC110 - time itself tells nobody
        await asyncio.sleep(EXPIRY_SECONDS)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _look_at(blobs: BlobStore) -> None:
    while True:
        await asyncio.sleep(DISK_SECONDS)
        await asyncio.to_thread(blobs.look)


class Agent:
    """An async context manager whose value is the address it serves at. `disk` holds the blobs, `clock` judges the certificate. `left` is
    set when a coordinator has said that the device shall leave the fleet: whoever entered it ends it then."""

    def __init__(
        self,
        config: AgentConfig,
        hardware: Hardware,
        runtime: Runtime = ONNX,
        *,
        disk: Disk | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.config = config
        self._hardware = hardware
        self._runtime = runtime
        self._disk = disk
        self._clock = clock
        self.left = asyncio.Event()
        self._credentials: Credentials | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> str:
        config = self.config
        identity = insecure_identity(config.state) if config.insecure else load_identity(config.state, self._clock)
        blobs = await asyncio.to_thread(BlobStore, config.state / "blobs", self._disk)
        async with AsyncExitStack() as stack:
            prepacked = None
            if self._runtime.prepacks:
                prepacked = await asyncio.to_thread(PrepackedStages, config.state / "prepacked", blobs.free_bytes)
            me, credentials = identity.device_id, identity.credentials
            self._credentials = credentials
            publishers = None if credentials is None else await asyncio.to_thread(Publishers, config.state, self._now)
            hearing = Hearing()
            device = Device(
                me,
                config.name,
                self._hardware,
                blobs,
                credentials,
                labels=config.labels,
                prepacked=prepacked,
                runtime=self._runtime,
                publishers=publishers,
                now=self._now,
                hearing=hearing,
            )
            await stack.enter_async_context(device)
            looking = asyncio.create_task(_look_at(blobs), name="look at the disk")
            stack.callback(looking.cancel)
            bind = joined_address(config.host, config.port)

            def register(server: grpc.aio.Server) -> None:
                device.register(server)
                if credentials is not None:
                    trust = publishers.trust if publishers else None
                    MemberService(config.state, credentials, self.left.set, self._clock, trust).register(server)

            server, port = await transport.serve(bind, me, credentials, register)
            stack.push_async_callback(server.stop, GRACE_SECONDS)
            announced = Announcement(me, identity.fleet_id, config.announced_port or port, config.interfaces, hearing=hearing)
            await stack.enter_async_context(announced)
            address = joined_address(config.host, port)
            if config.coordinator and credentials is not None:
                here = joined_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host), port)  # nosec B104
                dialling = asyncio.create_task(dial_out(config.coordinator, credentials, here), name="dial the coordinator")
                stack.push_async_callback(_ended, dialling)
            noting = asyncio.create_task(keep_status(config.state, partial(self._status, device, blobs, address)), name="note how it goes")
            stack.push_async_callback(_ended, noting)
            self._stack = stack.pop_all()
        return address

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def _status(self, device: Device, blobs: BlobStore, address: str) -> AgentStatus:
        told, now = device.describe(), self._now()
        heard = {(query.interface, query.sender): now - query.seconds_ago for query in told.hearing.queries}
        return AgentStatus(
            pid=os.getpid(),
            name=self.config.name,
            address=address,
            version=told.agent_version,
            at=now,
            coordinator_at=device.knowledge.coordinator_at,
            listens=told.HasField("hearing"),
            heard=tuple(HeardFrom(*who, at) for who, at in heard.items()),
            storage_problem=blobs.problem,
            memory_promised_bytes=max(0, told.memory_bytes - told.memory_used_bytes),
            memory_available_bytes=told.memory_available_bytes if told.HasField("memory_available_bytes") else None,
        )

    async def expired(self) -> None:
        """Until the certificate has ended: nobody can connect any more, and only a board that asks for another is given one."""
        await until_expired(self._credentials, self._clock)

    def _now(self) -> float:
        return self._clock().timestamp()
