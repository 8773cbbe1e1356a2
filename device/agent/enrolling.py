"""A board that belongs to no fleet yet: it shows itself, and waits until one takes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from device.agent.announce import Announcement
from device.agent.identity import Identity, own_key, public_der, signing_request, utc_now
from device.agent.membership import Membership, accept, authority_key
from device.agent.version import agent_version
from protos.enrolment import ENROLLABLE, NONCE_BYTES, Token, authority_hash, refusal_text, signed_text, words
from protos.errors import Denied, InvalidInput
from protos.ids import DeviceId, device_id, fleet_id, host_name
from protos.net import transport
from protos.rpc_errors import answered
from protos.v1 import enrolment_pb2 as pb
from protos.v1 import enrolment_pb2_grpc
from protos.versions import SPOKEN

# Of the certificate that a board signs itself: nobody is to judge it by its dates, since a board's clock may say anything.
_FIRST_DAY, _LAST_DAY = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_Context = grpc.aio.ServicerContext[Any, Any]

_REFUSED = {
    pb.Refusal.REASON_UNKNOWN: "its fleet does not know its token any more: it was revoked, or expired long ago",
    pb.Refusal.REASON_EXPIRED: "its token has expired",
    pb.Refusal.REASON_USED: "its token is good for one board, and another has used it",
    pb.Refusal.REASON_FORGED: "its token's proof is false",
}
_MOST_TOLD = 16  # lines, before strangers have no more shown on the board's screen

NAME_LENGTH = 64  # bytes: ub-common-name of RFC 5280

_log = logging.getLogger(__name__)


class Enrollable:
    """While entered, the board answers at `address` and says so over mDNS. `taken` waits for its membership.

    `folder` gets key.pem (made at first use) and then certificate.pem and authority.pem. With a `token` only the token's authority may take
    the board; without one the first that asks, so that somebody must look at both screens. With `returns`, the hash of an authority, it is
    a member of that one already, whose certificate has expired while nobody could renew it: that authority alone may give it another.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        profile: str,
        bind: str,
        *,
        token: Token | None = None,
        returns: bytes | None = None,
        clock: Callable[[], datetime] = utc_now,
        interfaces: tuple[str, ...] = (),
        announced_port: int | None = None,
        refused: Callable[[str, str], None] = lambda why, advice: None,
    ) -> None:
        """`bind` is "host:port", `profile` a line about its accelerator, `interfaces` as of Announcement; `announced_port` where others
        reach us through another than our own; `refused` is told once each why the token is of no use, and what to do. Raises InvalidInput
        for a name that no certificate can carry."""
        if not name.isprintable() or not name.strip() or len(name.encode()) > NAME_LENGTH:
            raise InvalidInput(f"not a name: {name[:80]!r}", advice=f"give another with --name: 1 to {NAME_LENGTH} printable characters")
        self._announced_port = announced_port
        self._folder = folder
        self._name = name
        self._profile = profile
        self._bind = bind
        self._token = token
        self._refused = refused
        self._told: set[str] = set()
        self._returns = returns
        self._clock = clock
        self._interfaces = interfaces
        self._stack = AsyncExitStack()
        self._taken: asyncio.Future[Identity] = asyncio.get_running_loop().create_future()
        self.board = DeviceId("")
        self.address, self.port = "", 0

    async def __aenter__(self) -> Self:
        key = await asyncio.to_thread(own_key, self._folder)
        self.board = device_id(public_der(key.public_key()))
        service = _Service(self, key)
        async with AsyncExitStack() as stack:
            certificate, private_key = _self_signed(key, self.board), _private_pem(key)
            server, port = await transport.serve_board(self._bind, self.board, certificate, private_key, service.register)
            stack.push_async_callback(server.stop, 0.5)  # whoever took it gets its answer
            await stack.enter_async_context(Announcement(self.board, ENROLLABLE, self._announced_port or port, self._interfaces))
            self.address, self.port = f"{self._bind.rpartition(':')[0]}:{port}", port
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    @property
    def fingerprint(self) -> str:
        """Five words, which the coordinator shows too."""
        return words(self.board)

    async def taken(self) -> Identity:
        """Wait until a fleet has taken it."""
        return await asyncio.shield(self._taken)

    def application(self, nonce: bytes, key: ec.EllipticCurvePrivateKey) -> pb.Application:
        """Raises InvalidInput for a nonce that is too short to be one."""
        if len(nonce) < NONCE_BYTES:
            raise InvalidInput(f"a nonce of {len(nonce)} bytes: at least {NONCE_BYTES}")
        signing = ed25519.Ed25519PrivateKey.from_private_bytes(self._token.key_seed) if self._token else None
        return pb.Application(
            protocol_version=SPOKEN.newest,
            oldest_protocol_version=SPOKEN.oldest,
            name=self._name,
            profile=self._profile,
            agent_version=agent_version(),
            signing_request=signing_request(key, self._name),
            token_key=signing.public_key().public_bytes_raw() if signing else b"",
            token_signature=signing.sign(signed_text(self.board, nonce)) if signing else b"",
            returns_to=self._returns or b"",
        )

    async def join(self, membership: Membership) -> None:
        """Raises Denied when it is not for this key, not from its authority, or from another than the token's; Conflict once taken."""
        pinned = self._returns or (self._token.authority if self._token else None)
        identity = await asyncio.to_thread(
            accept, self._folder, membership, pinned, anew=self._returns is not None and not self._taken.done(), clock=self._clock
        )
        if not self._taken.done():
            self._taken.set_result(identity)
        _log.info("taken into fleet %s", identity.fleet_id)

    def refuse(self, refusal: pb.Refusal) -> None:
        """Raises InvalidInput without a token, Denied unless the authority beside it has signed it. Another authority than the token's can
        say only that its fleet is not the token's."""
        if self._token is None:
            raise InvalidInput("this board has no token")
        key = authority_key(refusal.authority)
        token_key = ed25519.Ed25519PrivateKey.from_private_bytes(self._token.key_seed).public_key().public_bytes_raw()
        try:
            key.verify(refusal.signature, refusal_text(self.board, token_key, refusal.reason), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise Denied("the refusal is not from the authority beside it") from error
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        ours = authority_hash(der) == self._token.authority
        if ours:
            why = _REFUSED.get(refusal.reason, "its fleet does not take its token")
            advice = f"where the coordinator runs make another, `glmfleet devices token`; or by hand: glmfleet devices accept {self.board}"
        else:
            why = f"fleet {fleet_id(der)} has seen it, and its token is not of that fleet"
            advice = "it waits for the fleet of its token; to join that one, start it with a token of that one"
        if why not in self._told and (ours or len(self._told) < _MOST_TOLD):
            self._told.add(why)
            self._refused(why, advice)


class _Service(enrolment_pb2_grpc.EnrolmentServicer):
    def __init__(self, board: Enrollable, key: ec.EllipticCurvePrivateKey) -> None:
        self._board = board
        self._key = key
        self._joining = asyncio.Lock()

    def register(self, server: grpc.aio.Server) -> None:
        enrolment_pb2_grpc.add_EnrolmentServicer_to_server(self, server)

    async def Apply(self, request: pb.ApplyRequest, context: _Context) -> pb.Application:  # noqa: N802
        async with answered(context):
            return self._board.application(request.nonce, self._key)

    async def Join(self, request: pb.Membership, context: _Context) -> pb.JoinReply:  # noqa: N802
        async with answered(context), self._joining:
            await self._board.join(Membership(request.certificate, request.authority))
            return pb.JoinReply()

    async def Refuse(self, request: pb.Refusal, context: _Context) -> pb.RefuseReply:  # noqa: N802
        async with answered(context):
            self._board.refuse(request)
            return pb.RefuseReply()


def _self_signed(key: ec.EllipticCurvePrivateKey, board: DeviceId) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, board)])
    certificate = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=subject, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FIRST_DAY)
        .not_valid_after(_LAST_DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host_name(board))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
