"""All dialling and serving: TLS both ways, keepalive, limits, and the name of the device each call is for.

The module is a `Network`: what takes one can be given another (protos.memory) in its place.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, cast

import grpc
import grpc.aio

from protos.errors import Denied, InvalidInput, NotFound
from protos.ids import DeviceId, gateway_host_name, host_name
from protos.net.credentials import Credentials as Credentials
from protos.net.door import HANDSHAKE_SECONDS, Door, most_connections
from protos.net.listening import bound
from protos.net.roles import OnlyItsRole
from protos.net.well_formed import WellFormed
from protos.rpc_errors import CODE_KEY, STATUS
from protos.v1 import (
    device_pb2,
    device_pb2_grpc,
    enrolment_pb2_grpc,
    gateway_pb2_grpc,
    member_pb2_grpc,
    pipeline_pb2_grpc,
    relay_pb2_grpc,
)

DEVICE_KEY = "glmfleet-device"
CHUNK_BYTES = 512 * 1024  # of a blob, one message: loopback reaches its best rate from about 256 KiB on
_STRANGERS_BYTES = 64 * 1024  # of a message from a board that belongs to no fleet
MESSAGE_BYTES = 4 * 1024 * 1024  # gRPC's own default: larger things are streamed in chunks

_REASON_SECONDS = 5.0

_LIMITS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # A machine that loses power sends no reset. Where beats do not tell sooner (protos.net.beats), a ping finds it.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


def _pings_within(milliseconds: int) -> list[tuple[str, int]]:
    """Without the second a ping has 60 s, whatever the first says (gRPC 1.85)."""
    return [("grpc.keepalive_timeout_ms", milliseconds), ("grpc.http2.ping_timeout_ms", milliseconds)]


# On a connection of bulk a ping, or the answer to one, waits behind what was sent before it: megabytes, on a link that loses some.
_BULK_PING_MS = 30_000
_DIALLING = [
    *_LIMITS,
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
_CLIENT = [*_DIALLING, *_pings_within(5_000)]
_BULK = [
    *_DIALLING,
    *_pings_within(_BULK_PING_MS),
    ("grpc.use_local_subchannel_pool", 1),  # else gRPC would share a connection that there is
    ("grpc.client_idle_timeout_ms", 10_000),
]
# so_reuseport off: a port in use is an error, not two agents sharing it.
_SERVER = [
    *_LIMITS,
    *_pings_within(_BULK_PING_MS),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.server_handshake_timeout_ms", round(HANDSHAKE_SECONDS * 1000)),
    ("grpc.max_concurrent_streams", 512),  # of one connection: a coordinator has one per blob and pipeline, and one for telemetry
]
# Whoever asks is answered by a board of no fleet: nobody has to stay for that.
_BOARD = [("grpc.max_connection_idle_ms", 10_000), ("grpc.max_connection_age_ms", 60_000), ("grpc.max_connection_age_grace_ms", 5_000)]


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def split_address(address: str) -> tuple[str, int]:
    """("host", port) of "host:port". Raises InvalidInput."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise InvalidInput(f"not an address: {address!r}", advice="write host:port, for example 192.168.1.20:7420")
    return host, int(port)


def _check_plaintext(host: str) -> None:
    if not is_loopback(host):
        raise Denied(f"plaintext is for loopback only, not for {host}", advice="leave --insecure out: TLS needs no set-up")


_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Register: TypeAlias = "Callable[[grpc.aio.Server], None]"


class Methods:
    """What a device answers, by "/package.Service/Method": for a gateway, whose server answers for many."""

    def __init__(self, register: Register) -> None:
        """`register` adds servicers, as to a server."""
        self._handlers: dict[str, _Handler] = {}
        register(cast(grpc.aio.Server, self))

    def find(self, method: str) -> _Handler | None:
        return self._handlers.get(method)

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """Part of what generated code does with a server; the other part tells it all."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, _Handler]) -> None:
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}


class Bulk:
    """A second connection to where another leads, made when it is first needed: what is large must not delay what is urgent."""

    def __init__(self, make: Callable[[], grpc.aio.Channel]) -> None:
        self._make = make
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._channel = self._make()
        return self._channel

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


@dataclass(frozen=True)
class Peer:
    """A connection to one device, or gateway. Stubs' calls take `metadata=peer.metadata`. `bulk`: None: there is but the one."""

    device: DeviceId
    address: str
    channel: grpc.aio.Channel
    bulk: Bulk | None = None

    async def close(self) -> None:
        """What is under way ends."""
        await self.channel.close()
        if self.bulk is not None:
            await self.bulk.close()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ((DEVICE_KEY, self.device),)

    def to(self, device: DeviceId) -> Peer:
        """A device behind this gateway, over the same channel."""
        return replace(self, device=device)

    @property
    def device_stub(self) -> device_pb2_grpc.DeviceAsyncStub:
        return device_pb2_grpc.DeviceStub(self.channel)

    @property
    def bulk_stub(self) -> device_pb2_grpc.DeviceAsyncStub:
        """For calls whose messages are large: blobs, manifests, graphs."""
        return device_pb2_grpc.DeviceStub(self.channel if self.bulk is None else self.bulk.channel)

    @property
    def pipeline_stub(self) -> pipeline_pb2_grpc.PipelineAsyncStub:
        return pipeline_pb2_grpc.PipelineStub(self.channel)

    @property
    def member_stub(self) -> member_pb2_grpc.MemberAsyncStub:
        return member_pb2_grpc.MemberStub(self.channel)

    @property
    def enrolment_stub(self) -> enrolment_pb2_grpc.EnrolmentAsyncStub:
        return enrolment_pb2_grpc.EnrolmentStub(self.channel)

    @property
    def gateway_stub(self) -> gateway_pb2_grpc.GatewayAsyncStub:
        return gateway_pb2_grpc.GatewayStub(self.channel)

    @property
    def relay_stub(self) -> relay_pb2_grpc.RelayAsyncStub:
        return relay_pb2_grpc.RelayStub(self.channel)


class Served(Protocol):
    """A server that runs. `stop` ends its calls after `grace` seconds; None: at once."""

    async def stop(self, grace: float | None) -> None: ...


class Network(Protocol):
    """Ways to reach and to be reached; see `dial` and `serve`."""

    def dial(self, address: str, device: DeviceId, credentials: Credentials | None, gateway: DeviceId | None = None) -> Peer: ...

    async def serve(
        self,
        bind: str,
        device: DeviceId,
        credentials: Credentials | None,
        register: Register,
        behind: Mapping[DeviceId, Methods] | None = None,
    ) -> tuple[Served, int]: ...


def dial(address: str, device: DeviceId, credentials: Credentials | None, gateway: DeviceId | None = None) -> Peer:
    """A channel to `device` at "host:port"; lazy, so errors come with the first call.

    With credentials both sides prove who they are, and the far side must be `device`, or the `gateway` that answers for it.
    None is plaintext, on loopback only (Denied otherwise).
    """
    host, _ = split_address(address)
    if credentials is None:
        _check_plaintext(host)

        def open_channel(options: list[tuple[str, int]]) -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(address, options=options)

    else:
        tls = grpc.ssl_channel_credentials(credentials.authority, credentials.private_key, credentials.certificate)
        name = gateway_host_name(gateway) if gateway else host_name(device)

        def open_channel(options: list[tuple[str, int]]) -> grpc.aio.Channel:
            return grpc.aio.secure_channel(address, tls, options=[*options, ("grpc.ssl_target_name_override", name)])

    return Peer(device, address, open_channel(_CLIENT), Bulk(lambda: open_channel(_BULK)))


def dial_board(address: str, board: DeviceId, certificate: bytes) -> Peer:
    """A channel to a board of no fleet, which must hold the key of `certificate` (PEM, signed by itself). It does not ask who we are."""
    limits = ("grpc.max_receive_message_length", _STRANGERS_BYTES)
    options = [*[each for each in _CLIENT if each[0] != limits[0]], limits, ("grpc.ssl_target_name_override", host_name(board))]
    return Peer(board, address, grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(certificate), options=options))


async def connected(peer: Peer) -> None:
    """Wait until TLS has proven who is there; without TLS, until somebody listens. Raises AioRpcError with gRPC's reason."""
    channel, ready = peer.channel, grpc.ChannelConnectivity.READY
    while (state := channel.get_state(try_to_connect=True)) is not ready:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            try:  # only a call is told the reason, and this one at once; it changes nothing, whoever answers it meanwhile
                await peer.device_stub.Describe(device_pb2.DescribeRequest(), metadata=peer.metadata, timeout=_REASON_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    raise
            return
        await channel.wait_for_state_change(state)


class AddressedTo(grpc.aio.ServerInterceptor):
    """Refuses calls that name another device: an address that changed hands must not get this device's work."""

    def __init__(self, device: DeviceId, behind: Mapping[DeviceId, Methods] | None) -> None:
        self._device = device
        self._behind = behind

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]], details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        named = [str(value) for key, value in details.invocation_metadata or () if key == DEVICE_KEY]
        if named == [self._device]:
            return await continuation(details)
        if self._behind is not None and len(named) == 1 and (methods := self._behind.get(DeviceId(named[0]))):
            return methods.find(str(details.method))

        async def refuse(_request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            whom = named[0][:40] if named else "nobody"
            who = f"device {self._device}" if self._behind is None else f"gateway {self._device}"
            await context.abort(STATUS[NotFound], f"this is {who}, the call is for {whom}", ((CODE_KEY, NotFound.__name__),))

        # A stream whatever the call is: a unary handler would first wait for a message.
        return grpc.stream_stream_rpc_method_handler(refuse)


async def serve(
    bind: str,
    device: DeviceId,
    credentials: Credentials | None,
    register: Register,
    behind: Mapping[DeviceId, Methods] | None = None,
) -> tuple[Served, int]:
    """Start a server for `device` at "host:port" (port 0: any free one); returns it and the port it got.

    With `behind`, `device` is a gateway, and calls that name one of these are answered by its methods; the mapping may change meanwhile.
    With credentials callers prove that they are of the fleet, and may call what their role allows; plaintext knows no roles.
    Raises InvalidInput when the port is taken or the host is not ours, Denied for plaintext off loopback.
    """
    host, _, _ = bind.rpartition(":")
    if credentials is None:
        _check_plaintext(host)
        tls = None
    else:
        tls = _renewed(credentials)
    # The role first: it then stands before what is behind a gateway, too.
    roles = [OnlyItsRole(credentials.revoked, credentials.fleet)] if credentials else []
    interceptors = [*roles, WellFormed(), AddressedTo(device, behind)]
    return await _serve(bind, tls, register, interceptors, most_connections(gateway=behind is not None))


def _renewed(credentials: Credentials) -> grpc.ServerCredentials:
    """Each handshake shows the certificate that is there then. gRPC asks in threads of its own."""
    shown = credentials.certificate

    def configuration() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(credentials.private_key, shown)], credentials.authority)

    def newer() -> grpc.ServerCertificateConfiguration:
        nonlocal shown
        if (now := credentials.certificate) is shown:
            return cast(grpc.ServerCertificateConfiguration, None)  # the one before stays; the type stubs leave that out
        shown = now
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), newer, require_client_authentication=True)


async def serve_board(bind: str, board: DeviceId, certificate: bytes, private_key: bytes, register: Register) -> tuple[Served, int]:
    """As `serve`, for a board of no fleet: it shows a certificate that it signed itself, and answers whoever calls."""
    tls = grpc.ssl_server_credentials([(private_key, certificate)])
    return await _serve(bind, tls, register, [WellFormed(), AddressedTo(board, None)], most_connections(gateway=False), _BOARD)


async def _serve(
    bind: str,
    tls: grpc.ServerCredentials | None,
    register: Register,
    interceptors: Sequence[grpc.aio.ServerInterceptor],
    most: int,
    more: Sequence[tuple[str, int]] = (),
) -> tuple[Served, int]:
    host, _, wanted = bind.rpartition(":")
    (await asyncio.to_thread(bound, host, int(wanted))).close()  # gRPC says in raw lines on stderr that it cannot, and not why
    options = [*_SERVER, ("grpc.max_allowed_incoming_connections", most), *more]
    server = grpc.aio.server(interceptors=interceptors, options=options)
    register(server)
    try:
        port = server.add_insecure_port(bind) if tls is None else server.add_secure_port(bind, tls)
    except RuntimeError as error:
        raise InvalidInput(f"cannot listen on {bind}", advice="choose another with --port") from error
    await server.start()
    return Door(server, port, most), port
