"""Why a device cannot be reached at an address: who answers there, if anybody, and with which certificate."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from fleet.devices.diagnosis import Attempt, Outcome
from protos.errors import FleetError, TimedOut
from protos.ids import DeviceId, device_id, gateway_host_name, host_name
from protos.net.addresses import dialable, without_zone
from protos.net.credentials import Credentials
from protos.net.handshake import shake_hands
from protos.net.transport import split_address

CONNECT_SECONDS = 4.0  # the kernel gives an address of our own network up that nobody has after 3
TLS_SECONDS = 4.0
_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EINVAL)


async def attempt(address: str, device: DeviceId, credentials: Credentials | None, now: float) -> Attempt:
    """Reach `device` at "host:port". `now` in unix seconds judges its certificate. Never raises."""
    try:
        dialled = next(iter(dialable([address])), address)
        host, port = split_address(dialled)
        outcome, detail = await _connect(host.strip("[]"), port)
        if outcome == "answers" and credentials is not None:
            outcome, detail = await _who(dialled, device, credentials, now)
    except FleetError as error:
        outcome, detail = "unresolved", error.detail
    return Attempt(without_zone(address), outcome, detail)


async def _connect(host: str, port: int) -> tuple[Outcome, str]:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return "silent", ""
    except socket.gaierror as error:
        return "unresolved", str(error.strerror)
    except OSError as error:
        if error.errno in _NO_WAY:
            return "unreachable", (error.strerror or "").lower() if error.errno == errno.ENETUNREACH else ""
        return "refused", ""
    writer.transport.abort()
    return "answers", ""


async def _who(address: str, device: DeviceId, credentials: Credentials, now: float) -> tuple[Outcome, str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whose certificate it is is what we want to know; nothing is said over it
    context.set_alpn_protocols(["h2"])
    try:
        shown = await shake_hands(address, context, TLS_SECONDS, "")
    except TimedOut:
        return "hangs", ""
    except FleetError as error:
        return "no tls", error.cause
    return judged(shown.der, credentials.authority, device, now)


def judged(der: bytes, authority: bytes, device: DeviceId, now: float) -> tuple[Outcome, str]:
    """What a certificate says that was shown where `device` should be, whose fleet has this authority (PEM)."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        key = certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, x509.ExtensionNotFound):
        return "no tls", "its certificate is none of ours"
    fleet = next((uri.split("/")[2] for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.count("/") > 3), "")
    if not _is_from(certificate, x509.load_pem_x509_certificate(authority)):
        if _is_from(certificate, certificate):
            mine = device_id(key) == device
            return ("waits to join", "") if mine else ("another device", f"a board that belongs to no fleet, {device_id(key)}")
        return "another fleet", fleet[:16]
    if not {host_name(device), gateway_host_name(device)} & set(names.get_values_for_type(x509.DNSName)):
        return "another device", device_id(key)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > last.timestamp():
        return "expired", f"{last:%Y-%m-%d %H:%M} UTC"
    if now < first.timestamp():
        return "not yet valid", f"{first:%Y-%m-%d %H:%M} UTC; it is {datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} here"
    return "answers", ""


def _is_from(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
