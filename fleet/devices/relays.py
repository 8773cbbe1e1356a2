"""Devices that nobody can dial, because they are behind NAT: each dials us, and has a port here that leads to it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from protos.errors import Denied, InvalidInput, NoSpace
from protos.ids import DeviceId, device_id
from protos.net import transport
from protos.net.addresses import joined_address
from protos.net.beats import BeatingWriter
from protos.net.credentials import Credentials
from protos.net.roles import caller_of
from protos.net.transport import Served, is_loopback
from protos.net.tunnel import Tunnel
from protos.rpc_errors import answered
from protos.v1 import relay_pb2 as pb
from protos.v1 import relay_pb2_grpc

# To one device it looks as if all came from itself: together fewer than its door takes of one address (protos/net/door.py).
MOST_OF_OTHERS, MOST_OF_ONE, MOST_OF_OURS = 16, 8, 8
MOST_DEVICES = 1024  # of a fleet: each has a socket that listens
GRACE_SECONDS = 0.5

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_log = logging.getLogger(__name__)


@dataclass
class _Port:
    """Where a device is reached for as long as we run, whether it is connected now or not: neighbours know the address."""

    server: asyncio.Server
    number: int
    carrying: asyncio.Task[None] | None = None  # the call that stands
    tunnel: Tunnel | None = None
    open: Counter[str] = field(default_factory=Counter)  # connections, by the host that they come from


class Relays:
    """An async context manager. `found(device, addresses)` is told of each device that has dialled us, and where to dial it now."""

    def __init__(
        self, bind: str, credentials: Credentials, hosts: Callable[[], Sequence[str]], found: Callable[[DeviceId, tuple[str, ...]], None]
    ) -> None:
        """`bind` is "host:port"; `hosts` are the addresses by which other machines reach us there now."""
        self._bind = bind
        self._credentials = credentials
        self._hosts = hosts
        self._found = found
        self._ports: dict[DeviceId, _Port] = {}
        self._numbers = itertools.count(1)
        self._carried: set[asyncio.Task[None]] = set()
        self._server: Served | None = None
        certificate = x509.load_pem_x509_certificate(credentials.certificate)
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        self.member = device_id(certificate.public_key().public_bytes(serialization.Encoding.DER, spki))
        self.port = 0

    async def __aenter__(self) -> Self:
        """Raises InvalidInput when the port is taken."""

        def register(server: grpc.aio.Server) -> None:
            relay_pb2_grpc.add_RelayServicer_to_server(_Service(self), server)

        self._server, self.port = await transport.serve(self._bind, self.member, self._credentials, register)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._server is not None:
            await self._server.stop(GRACE_SECONDS)
        for port in self._ports.values():
            port.server.close()
        for port in self._ports.values():
            await port.server.wait_closed()
        carried = list(self._carried)
        for task in carried:
            task.cancel()
        await asyncio.gather(*carried, return_exceptions=True)

    async def carry(self, member: DeviceId, context: _Context) -> None:
        """The stream of `member`, until it ends. Raises NoSpace, InvalidInput."""
        port = await self._port_of(member)
        if port.carrying is not None:
            _log.warning("%s has dialled us once more: what it dialled before is given up", member)
            port.carrying.cancel()
        tunnel = port.tunnel = Tunnel(BeatingWriter(context.write, pb.RelayFrame()).write)
        me = port.carrying = asyncio.current_task()
        _log.info("%s dials us, and is reached through port %d here", member, port.number)
        try:
            self._found(member, self._addresses(port))
            while isinstance(frame := await context.read(), pb.RelayFrame):
                tunnel.take(frame)
        except asyncio.CancelledError:
            if me is None or port.carrying is me:
                raise
            me.uncancel()  # it was cancelled by the call that has its place
            raise Denied("this device has dialled the coordinator once more, and is reached that way") from None
        finally:
            tunnel.end()
            if port.carrying is me:
                port.carrying = port.tunnel = None
            if member in self._credentials.revoked and self._ports.get(member) is port:
                del self._ports[member]
                port.server.close()

    async def _port_of(self, member: DeviceId) -> _Port:
        if member not in self._ports:
            if len(self._ports) >= MOST_DEVICES:
                raise NoSpace(f"{MOST_DEVICES} devices dial this coordinator already")
            host = self._bind.rpartition(":")[0].strip("[]")

            async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._connected(made, reader, writer)

            server = await asyncio.start_server(connected, host, 0)
            made = self._ports.setdefault(member, _Port(server, server.sockets[0].getsockname()[1]))
            if made.server is not server:  # it has dialled twice at once
                server.close()
        return self._ports[member]

    def _addresses(self, port: _Port) -> tuple[str, ...]:
        """Our own way first, which no other machine has."""
        host = self._bind.rpartition(":")[0].strip("[]")
        own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # nosec B104 # nothing is bound here
        return tuple(dict.fromkeys(joined_address(one, port.number) for one in (own, *self._hosts())))

    async def _connected(self, port: _Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody wants to reach the device. Who it is they tell each other: a stranger gets no further than its handshake."""
        task = asyncio.current_task()
        assert task is not None
        self._carried.add(task)
        host = str((writer.get_extra_info("peername") or [""])[0])
        tunnel = port.tunnel
        if tunnel is None or not _has_room(port.open, host):
            writer.transport.abort()
            self._carried.discard(task)
            return
        port.open[host] += 1
        number = next(self._numbers) & 0xFFFF_FFFF
        try:
            await tunnel.open(number, reader, writer)
        finally:
            port.open[host] -= 1
            self._carried.discard(task)


def _has_room(connections: Counter[str], host: str) -> bool:
    if is_loopback(host):
        return connections[host] < MOST_OF_OURS
    others = sum(count for one, count in connections.items() if not is_loopback(one))
    return connections[host] < MOST_OF_ONE and others < MOST_OF_OTHERS


class _Service(relay_pb2_grpc.RelayServicer):
    def __init__(self, relays: Relays) -> None:
        self._relays = relays

    # In grpc.aio's reader/writer form, which its type stubs do not know for servicers.
    async def Carry(self, request_iterator: object, context: _Context) -> None:  # type: ignore[override]  # noqa: N802
        async with answered(context):
            caller = caller_of(context)
            if caller is None:
                raise InvalidInput("without TLS nobody knows who dials")
            await self._relays.carry(caller.member_id, context)
