"""Boards that call the coordinator, where it does not find them: one round of question and answer, by a token alone."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from fleet.devices.discovery import FoundBy
from fleet.enrolling.views import InvitationView, JoinRequest, MembershipView
from fleet.trust.authority import Authority
from fleet.trust.tokens import Tokens
from protos.enrolment import TokenRefused
from protos.errors import Denied, InvalidInput
from protos.ids import DeviceId, device_id

NONCE_SECONDS = 60.0  # so long an invitation is good
_TIME_BYTES, _RANDOM_BYTES, _MARK_BYTES = 8, 8, 16

_log = logging.getLogger(__name__)


class Joining:
    """Takes in boards that call. `taken(device, address, found_by)` is told of each.

    Nothing is kept of an invitation: a nonce is a time, random bytes and our mark on both. Used twice it gives the same board a certificate
    for the same key.
    """

    def __init__(
        self,
        authority: Authority,
        tokens: Tokens,
        taken: Callable[[DeviceId, str, FoundBy], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._authority = authority
        self._tokens = tokens
        self._taken = taken
        self._clock = clock
        self._secret = secrets.token_bytes(32)

    def invite(self) -> InvitationView:
        stamped = int(self._clock()).to_bytes(_TIME_BYTES, "big") + secrets.token_bytes(_RANDOM_BYTES)
        nonce = stamped + self._mark(stamped)
        return InvitationView(self._authority.fleet_id, self._authority.certificate_pem.decode(), nonce.hex())

    async def join(self, request: JoinRequest) -> MembershipView:
        """Raises TokenRefused, Denied (its signing request), InvalidInput (what is no request at all, or too old)."""
        nonce, key, signature = (_bytes(text) for text in (request.nonce, request.token_key, request.token_signature))
        self._check(nonce)
        csr = request.signing_request.encode()
        board = _board_of(csr)
        verdict = await asyncio.to_thread(self._tokens.use, key, signature, board, nonce)
        if verdict != "good":
            refused = TokenRefused(verdict)
            _log.warning("a board at %s asks to join: %s", request.address, refused.detail)
            raise refused
        certificate = await asyncio.to_thread(self._authority.sign, csr, "device", board)
        _log.info("%s at %s joined the fleet by calling", board, request.address)
        self._taken(board, request.address, "join")
        return MembershipView(board, certificate.decode(), self._authority.certificate_pem.decode())

    def _check(self, nonce: bytes) -> None:
        stamped, mark = nonce[: _TIME_BYTES + _RANDOM_BYTES], nonce[_TIME_BYTES + _RANDOM_BYTES :]
        if not hmac.compare_digest(mark, self._mark(stamped)):
            raise InvalidInput("the nonce is not one of this coordinator", advice="ask for one, and answer with it")
        if self._clock() - int.from_bytes(stamped[:_TIME_BYTES], "big") > NONCE_SECONDS:
            raise InvalidInput(f"the nonce is older than {NONCE_SECONDS:g} s", advice="ask for another")

    def _mark(self, stamped: bytes) -> bytes:
        return hmac.digest(self._secret, stamped, hashlib.sha256)[:_MARK_BYTES]


def _board_of(csr_pem: bytes) -> DeviceId:
    """The id of the key that the request is for; that its asker has the key is checked by who signs it."""
    try:
        key = x509.load_pem_x509_csr(csr_pem).public_key()
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise Denied("not a certificate signing request") from error
    return device_id(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise InvalidInput("not hexadecimal digits") from error
