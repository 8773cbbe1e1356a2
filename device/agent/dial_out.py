"""A device that nobody can dial, because it is behind NAT: it dials its coordinator, which lets others reach it over that connection."""

from __future__ import annotations

import asyncio
import logging
import random

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from device.agent.joining import PATH
from protos.errors import FleetError, Internal, InvalidInput, Unavailable
from protos.ids import DeviceId, parse_device_id
from protos.net import https
from protos.net.addresses import joined_address
from protos.net.beats import BeatingWriter
from protos.net.credentials import Credentials
from protos.net.transport import dial, split_address
from protos.net.tunnel import Tunnel
from protos.rpc_errors import remote
from protos.v1 import relay_pb2 as pb

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 15.0  # the coordinator tells one address 30 times a minute where its relay is
MOST_CONNECTIONS = 64  # at once: more than a coordinator lets through

_log = logging.getLogger(__name__)


async def dial_out(coordinator: str, credentials: Credentials, own: str) -> None:
    """For ever: dial the coordinator whose API answers at "host:port", and pass on to `own`, where this agent listens, whoever it lets
    through. The log says when there is a connection, and why there is none when that is news."""
    wait, last = FIRST_WAIT_SECONDS, ""
    while True:
        try:
            address, member = await asyncio.to_thread(_where, coordinator, credentials)
            last = ""
            await _stand(address, member, credentials, own)
            wait = FIRST_WAIT_SECONDS
        except FleetError as error:
            if error.detail != last:
                last = error.detail
                _log.warning("nobody reaches this device through %s: %s (%s)", coordinator, error.detail, error.advice or "tried again")
        await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # nosec B311 # only spreads
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def _where(coordinator: str, credentials: Credentials) -> tuple[str, DeviceId]:
    """Where its relay is, and who that is: told by a server that has proven to be the fleet's coordinator. Blocks. Raises FleetError."""
    authority = x509.load_pem_x509_certificate(credentials.authority).public_bytes(Encoding.DER)
    answer = https.ask(coordinator, "GET", PATH, context=https.pinned(authority), fleet=credentials.fleet)
    if not isinstance(answer, dict):
        raise Internal(f"{coordinator} answers as no coordinator does", advice="is it the right address?")
    port, member = answer.get("relay_port"), answer.get("coordinator_id")
    if not isinstance(port, int) or not 0 < port < 65536:
        raise Unavailable("it takes no devices that dial it", advice="start it there with: glmfleet serve --host ... --relay-port 7401")
    try:
        return joined_address(split_address(coordinator)[0].strip("[]"), port), parse_device_id(str(member))
    except ValueError as error:
        raise Internal(f"{coordinator} names no relay", advice="another version of glmfleet may run there") from error


async def _stand(address: str, coordinator: DeviceId, credentials: Credentials, own: str) -> None:
    """Until the connection ends. Raises why, as a FleetError."""
    peer = dial(address, coordinator, credentials)
    carried: set[asyncio.Task[None]] = set()
    tunnel: Tunnel | None = None
    try:
        with remote(address):
            call = peer.relay_stub.Carry(metadata=peer.metadata)
            writer = BeatingWriter(call.write, pb.RelayFrame())
            tunnel = Tunnel(writer.write)
            await writer.write(pb.RelayFrame())  # the stream begins with it
            _log.info("this device is reached through %s", address)
            while isinstance(frame := await call.read(), pb.RelayFrame):
                if frame.WhichOneof("what") == "opened":
                    if len(carried) >= MOST_CONNECTIONS:
                        raise InvalidInput(f"it lets through more than {MOST_CONNECTIONS} connections")
                    tunnel.expect(frame.connection)
                    task = asyncio.create_task(_carry(tunnel, frame.connection, own), name=f"connection {frame.connection} of the relay")
                    carried.add(task)
                    task.add_done_callback(carried.discard)
                else:
                    tunnel.take(frame)
            if (code := await call.code()) is not grpc.StatusCode.OK:
                raise Unavailable(f"it has ended the connection: {await call.details() or code.name}")
            raise Unavailable("it has ended the connection")
    finally:
        if tunnel is not None:
            tunnel.end()
        for task in carried:
            task.cancel()
        await asyncio.gather(*carried, return_exceptions=True)
        await peer.close()


async def _carry(tunnel: Tunnel, number: int, own: str) -> None:
    host, port = split_address(own)
    try:
        reader, writer = await asyncio.open_connection(host.strip("[]"), port)
    except OSError as error:
        _log.warning("this device itself does not take a connection at %s: %s", own, error)
        await tunnel.refuse(number)
        return
    await tunnel.carry(number, reader, writer)
