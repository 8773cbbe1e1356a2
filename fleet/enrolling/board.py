"""A board that belongs to no fleet: which key it holds, what it asks for, and taking it in."""

from __future__ import annotations

import secrets
import ssl
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning

from fleet.trust.authority import UNREADABLE
from protos.enrolment import NONCE_BYTES
from protos.errors import Denied
from protos.ids import DeviceId, device_id
from protos.net.addresses import dialable
from protos.net.handshake import shake_hands
from protos.net.race import Unreached, race
from protos.net.transport import Peer, dial_board
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
    returns_to: bytes = b""  # the hash of the authority whose member it is, with a certificate that has expired


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
            told.returns_to,
        )

    async def join(self, certificate: bytes, authority: bytes) -> None:
        """Raises FleetError."""
        with remote(self.peer.address):
            membership = pb.Membership(certificate=certificate, authority=authority)
            await self.peer.enrolment_stub.Join(membership, metadata=self.peer.metadata, timeout=_SECONDS)

    async def refuse(self, refusal: pb.Refusal) -> None:
        """Raises FleetError, also from a board of a release before, which cannot be told."""
        with remote(self.peer.address):
            await self.peer.enrolment_stub.Refuse(refusal, metadata=self.peer.metadata, timeout=_SECONDS)


@dataclass(frozen=True)
class _Found:
    """Whose certificate was shown."""

    board: DeviceId
    pem: bytes

    async def close(self) -> None:
        """Nothing is open yet."""


@asynccontextmanager
async def connected(addresses: Sequence[str], expected: DeviceId | None = None) -> AsyncIterator[Board]:
    """To whoever answers first at one of these with a certificate of an EC P-256 key, which is `expected` where somebody is.

    Raises FleetError, also for a member of any fleet: that asks for a certificate of ours.
    """

    async def reach(address: str) -> _Found:
        found = await _found(address)
        if expected not in (None, found.board):
            raise Denied(f"{address} is board {found.board}, not {expected}")
        return found

    try:
        address, found = await race(dialable(addresses), reach)
    except Unreached as unreached:
        raise unreached.as_one(lambda error, _address: error) from unreached
    peer = dial_board(address, found.board, found.pem)
    try:
        yield Board(found.board, peer)
    finally:
        await peer.close()


async def _found(address: str) -> _Found:
    """Whose certificate is shown at an address. That its owner has the key is proven by the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # what it shows is what is asked
    context.set_alpn_protocols(["h2"])
    shown = await shake_hands(address, context, _SECONDS, "is the board on, and `glmfleet device run` running there?")
    try:
        with warnings.catch_warnings(action="error", category=CryptographyDeprecationWarning):
            certificate = x509.load_der_x509_certificate(shown.der)
        key = certificate.public_key()
    except UNREADABLE as error:
        raise Denied(f"{address} shows no certificate that can be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Denied(f"{address} shows a certificate of another kind of key than a device's")
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _Found(device_id(der), certificate.public_bytes(serialization.Encoding.PEM))


def _shown(text: str) -> str:
    """A stranger's words, safe to print in one line."""
    return "".join(character for character in text[:_NAME_LENGTH] if character.isprintable()).strip()
