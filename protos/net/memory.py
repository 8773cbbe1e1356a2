"""A network in one process: the agents' and coordinators' own calls, without sockets, for clocks that are not the wall's.

Implements protos.transport.Network. Messages are serialized as on a wire; who may call what is decided by the same code as over gRPC;
certificates are compared, not verified: whoever can pass one here could as well call the function.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias, cast

import grpc
import grpc.aio

from protos.errors import InvalidInput
from protos.ids import DeviceId, gateway_host_name, host_name
from protos.net.memory_call import MemoryCall, Metadata, Wire, serve_call
from protos.net.roles import OnlyItsRole
from protos.net.transport import AddressedTo, Credentials, Methods, Peer, Register, split_address

_NAME = re.compile(rb"[a-z2-7]{16}(?:\.gateway)?\.glmfleet\.internal")
_URI = re.compile(rb"glmfleet://[a-z2-7]{16}/[a-z]+/[a-z2-7]{16}")
_FIRST_PORT = 20_000

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class _Details(NamedTuple):
    """What an interceptor looks at: grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: Metadata


class MemoryNetwork:
    """Addresses are names only: any host, and ports that this network gives out."""

    def __init__(self) -> None:
        self._servers: dict[str, _Server] = {}
        self._ports = itertools.count(_FIRST_PORT)

    def dial(self, address: str, device: DeviceId, credentials: Credentials | None, gateway: DeviceId | None = None) -> Peer:
        """As transport.dial."""
        split_address(address)
        name = gateway_host_name(gateway) if gateway else host_name(device)
        return Peer(device, address, _Channel(self, address, name, credentials))

    async def serve(
        self,
        bind: str,
        device: DeviceId,
        credentials: Credentials | None,
        register: Register,
        behind: Mapping[DeviceId, Methods] | None = None,
    ) -> tuple[_Server, int]:
        """As transport.serve."""
        host, _, port_text = bind.rpartition(":")
        port = int(port_text) or next(self._ports)
        address = f"{host}:{port}"
        if address in self._servers:
            raise InvalidInput(f"port {port} is in use", advice="choose another with --port, or --port 0 for any free one")
        server = _Server(Methods(register), device, behind, credentials, lambda: self._servers.pop(address, None))
        self._servers[address] = server
        return server, port

    def crossing(self, wire: Wire, _address: str, _caller: Credentials | None) -> Wire:
        """What the servicer at the address holds of a call whose client holds `wire`: the same. For networks between them."""
        return wire

    def connect(self, address: str, name: str, credentials: Credentials | None) -> _Server:
        """The server there, if it is `name` and of the caller's fleet. Raises _Refused with the words of gRPC."""
        server = self._servers.get(address)
        if server is None:
            raise _Refused(f"connect to {address}: Connection refused")
        theirs = server.credentials
        if (credentials is None) != (theirs is None):
            raise _Refused("Ssl handshake failed: one side speaks TLS")
        if credentials is not None and theirs is not None:
            if credentials.authority != theirs.authority:
                raise _Refused("Ssl handshake failed: certificate verify failed")
            if name.encode() not in _NAME.findall(_der(theirs.certificate)):
                raise _Refused("Hostname Verification Check failed.")
        return server


class _Refused(Exception):
    """No connection, and why."""


class _Server:
    """Implements transport.Served."""

    def __init__(
        self,
        methods: Methods,
        device: DeviceId,
        behind: Mapping[DeviceId, Methods] | None,
        credentials: Credentials | None,
        leave: Callable[[], object],
    ) -> None:
        self.credentials = credentials
        self._methods = methods
        self._addressed = AddressedTo(device, behind)
        self._roles = OnlyItsRole(credentials.revoked, credentials.fleet) if credentials else None
        self._leave = leave
        self._open: dict[Wire, asyncio.Task[None]] = {}

    async def stop(self, grace: float | None) -> None:
        self._leave()
        if self._open and grace:
            await asyncio.wait(list(self._open.values()), timeout=grace)
        for wire in list(self._open):
            wire.end(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        if self._open:
            await asyncio.wait(list(self._open.values()))

    def take(self, method: str, metadata: Metadata, wire: Wire, caller: Credentials | None) -> None:
        """Answer a call. The task ends with the call, whichever side ends it."""
        uris = _URI.findall(_der(caller.certificate)) if caller else []
        task = asyncio.create_task(self._serve(method, metadata, wire, uris), name=method)
        self._open[wire] = task
        task.add_done_callback(lambda _: self._open.pop(wire, None))
        # A servicer that ended the call itself goes on to its end.
        wire.when_ended(lambda: task.cancel() if asyncio.current_task() is not task else None)

    async def _serve(self, method: str, metadata: Metadata, wire: Wire, uris: list[bytes]) -> None:
        details = cast(grpc.HandlerCallDetails, _Details(method, metadata))

        async def registered(_details: grpc.HandlerCallDetails) -> _Handler | None:
            return self._methods.find(method)

        async def addressed(details: grpc.HandlerCallDetails) -> _Handler | None:
            return await self._addressed.intercept_service(registered, details)

        find: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]] = addressed
        handler = await (self._roles.intercept_service(find, details) if self._roles else find(details))
        if handler is None:
            wire.end(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            return
        await serve_call(handler, wire, metadata, uris)


@dataclass(frozen=True)
class _Method:
    """A stub's method: called, it makes a call."""

    channel: _Channel
    name: str
    serialize: Callable[[Any], bytes]
    deserialize: Callable[[bytes], Any]
    requests_stream: bool

    def __call__(self, request: Any = None, *, timeout: float | None = None, metadata: Any = None, **_ignored: Any) -> MemoryCall:
        given = tuple((str(key), value) for key, value in metadata or ())
        return self.channel.call(self, request, timeout, given)


class _Channel(grpc.aio.Channel):
    def __init__(self, network: MemoryNetwork, address: str, name: str, credentials: Credentials | None) -> None:
        self._network = network
        self._address = address
        self._name = name
        self._credentials = credentials
        self._calls: dict[MemoryCall, None] = {}  # in the order in which they began
        self._closed = False

    def call(self, method: _Method, request: Any, timeout: float | None, metadata: Metadata) -> MemoryCall:
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        wire = Wire()
        call = MemoryCall(wire, method.serialize, method.deserialize, timeout)
        self._calls[call] = None
        wire.when_ended(lambda: self._calls.pop(call, None))
        try:
            server = self._network.connect(self._address, self._name, self._credentials)
        except _Refused as refused:
            wire.end(grpc.StatusCode.UNAVAILABLE, str(refused))
            return call
        if method.requests_stream:
            call.send_all(request)
        else:
            call.send_one(request)
        if not call.done():
            server.take(method.name, metadata, self._network.crossing(wire, self._address, self._credentials), self._credentials)
        return call

    def unary_unary(self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any) -> Any:
        return _Method(self, method, request_serializer, response_deserializer, requests_stream=False)

    def stream_unary(self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any) -> Any:
        return _Method(self, method, request_serializer, response_deserializer, requests_stream=True)

    unary_stream = unary_unary
    stream_stream = stream_unary

    async def close(self, grace: float | None = None) -> None:
        self._closed = True
        for call in list(self._calls):
            call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return grpc.ChannelConnectivity.SHUTDOWN if self._closed else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        raise NotImplementedError

    async def channel_ready(self) -> None:
        """There is nothing to wait for."""


def _der(pem: bytes) -> bytes:
    """The bytes within a PEM text."""
    with suppress(ValueError):
        return base64.b64decode(b"".join(line for line in pem.splitlines() if not line.startswith(b"-----")))
    return b""
