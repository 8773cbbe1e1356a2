"""A board that calls its coordinator to join, where that does not find it: one question, one answer, by a token."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from device.agent.identity import Identity, own_key, public_der, signing_request
from device.agent.membership import Membership, accept
from protos.enrolment import NONCE_BYTES, Token, authority_hash, signed_text
from protos.errors import Denied, Internal
from protos.ids import device_id, fleet_id
from protos.net import https

PATH = "/api/v1/join"


def join(folder: Path, address: str, token: Token, name: str, port: int) -> Identity:
    """Become a member of the token's fleet, whose coordinator answers at `address` ("host:port") and will dial us at `port`.

    What answers there first says only who it is: nothing of ours is sent before a server has proven to be of the token's authority.
    `folder` gets key.pem, certificate.pem and authority.pem. Blocks. Raises FleetError: Denied when it is another fleet, or when that
    refuses the token; what `accept` raises.
    """
    key = own_key(folder)
    shown = https.ask(address, "GET", PATH, context=https.unverified(), fleet=None)
    certificate = _certificate(_text(shown, "authority", address))
    authority = public_der(certificate.public_key())
    if authority_hash(authority) != token.authority:
        raise Denied(f"the coordinator at {address} is not of the token's fleet", advice="is it the right address, and the right token?")
    context, fleet = https.pinned(certificate.public_bytes(serialization.Encoding.DER)), fleet_id(authority)
    nonce = b""
    with contextlib.suppress(ValueError):
        nonce = bytes.fromhex(_text(https.ask(address, "GET", PATH, context=context, fleet=fleet), "nonce", address))
    if len(nonce) < NONCE_BYTES:
        raise Internal(f"{address} gives no nonce to sign", advice="another version of glmfleet may run there")
    me = device_id(public_der(key.public_key()))
    signing = ed25519.Ed25519PrivateKey.from_private_bytes(token.key_seed)
    body = {
        "port": port,
        "signing_request": signing_request(key, name).decode(),
        "nonce": nonce.hex(),
        "token_key": signing.public_key().public_bytes_raw().hex(),
        "token_signature": signing.sign(signed_text(me, nonce)).hex(),
    }
    answer = https.ask(address, "POST", PATH, context=context, fleet=fleet, body=body)
    membership = Membership(_text(answer, "certificate", address).encode(), _text(answer, "authority", address).encode())
    return accept(folder, membership, token.authority)


def _text(answer: object, field: str, address: str) -> str:
    """Raises Internal."""
    value = answer.get(field) if isinstance(answer, dict) else None
    if not isinstance(value, str):
        raise Internal(f"{address} answers as no coordinator does: no {field}", advice="is it the right address?")
    return value


def _certificate(pem: str) -> x509.Certificate:
    try:
        (certificate,) = x509.load_pem_x509_certificates(pem.encode())
        return certificate
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise Denied("what was shown as the fleet's authority is no certificate") from error
