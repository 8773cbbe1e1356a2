"""A board that belongs to no fleet: which key it holds, what it asks for, and taking it in."""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning

from fleet.trust.authority import UNREADABLE
from protos.enrolment import NONCE_BYTES
from protos.errors import Denied, TimedOut, Unavailable
from protos.ids import DeviceId, device_id
from protos.net.transport import Peer, dial_board, split_address
from protos.rpc_errors import remote
from protos.v1 import enrolment_pb2 as pb

_SECONDS = 5.0
_NAME_LENGTH = 64


@dataclass(frozen=True)
class Application:
    """What a board asked for, its own words and unproven but for `board`, the hash of the key that it answered with."""

    board: DeviceId
    name: str
    profile: str
    agent_version: str
    signing_request: bytes
    nonce: bytes
    token_key: bytes
    token_signature: bytes


@dataclass(frozen=True)
class Board:
    """A connection to the holder of a key, whoever that is."""

    board: DeviceId
    peer: Peer

    async def apply(self) -> Application:
        """Raises FleetError."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        with remote(self.peer.address):
            told = await self.peer.enrolment_stub.Apply(pb.ApplyRequest(nonce=nonce), metadata=self.peer.metadata, timeout=_SECONDS)
        return Application(
            self.board,
            _shown(told.name) or self.board,
            _shown(told.profile),
            _shown(told.agent_version),
            told.signing_request,
            nonce,
            told.token_key,
            told.token_signature,
        )

    async def join(self, certificate: bytes, authority: bytes) -> None:
        """Raises FleetError."""
        with remote(self.peer.address):
            membership = pb.Membership(certificate=certificate, authority=authority)
            await self.peer.enrolment_stub.Join(membership, metadata=self.peer.metadata, timeout=_SECONDS)


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Board]:
    """To whoever answers at "host:port" with a certificate of an EC P-256 key. Raises FleetError, also for a member of any fleet: that asks
    for a certificate of ours."""
    pem, board = await _certificate(address)
    peer = dial_board(address, board, pem)
    try:
        yield Board(board, peer)
    finally:
        await peer.channel.close()


async def _certificate(address: str) -> tuple[bytes, DeviceId]:
    """The certificate (PEM) that is shown at an address, and the id of its key. That its owner has the key is proven by the handshake."""
    host, port = split_address(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # what it shows is what is asked
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), port, ssl=context, ssl_shutdown_timeout=1.0)
    except TimeoutError as error:
        raise TimedOut(f"{address} did not answer within {_SECONDS:g} s") from error
    except ssl.SSLError as error:
        raise Denied(f"{address} does not speak our TLS ({error.reason or 'no reason given'})") from error
    except (OSError, UnicodeError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno and error.errno > 0 else str(error)
        raise Unavailable(f"{address}: {reason.lower()}", advice="is the board on, and `glmfleet device run` running there?") from error
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()  # nothing was said: there is nothing to end in order
    try:
        with warnings.catch_warnings(action="error", category=CryptographyDeprecationWarning):
            certificate = x509.load_der_x509_certificate(shown or b"")
        key = certificate.public_key()
    except UNREADABLE as error:
        raise Denied(f"{address} shows no certificate that can be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Denied(f"{address} shows a certificate of another kind of key than a device's")
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return certificate.public_bytes(serialization.Encoding.PEM), device_id(der)


def _shown(text: str) -> str:
    """A stranger's words, safe to print in one line."""
    return "".join(character for character in text[:_NAME_LENGTH] if character.isprintable()).strip()
