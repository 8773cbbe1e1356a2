"""Identifiers that two programs exchange, each a type of its own."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import NewType

SERVICE_TYPE = "_glmfleet._tcp.local."

DeviceId = NewType("DeviceId", str)
FleetId = NewType("FleetId", str)
PipelineId = NewType("PipelineId", str)
Digest = NewType("Digest", str)

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"[a-z2-7]{16}")


def _fingerprint(public_key_der: bytes) -> str:
    """80 bits of SHA-256 over a SubjectPublicKeyInfo: 16 characters of lower-case base32, a valid DNS label."""
    return _base32(public_key_der)


def _base32(data: bytes) -> str:
    return base64.b32encode(hashlib.sha256(data).digest()[:10]).decode().lower()


def device_id(public_key_der: bytes) -> DeviceId:
    """The id of the device that holds this key (DER of SubjectPublicKeyInfo)."""
    return DeviceId(_fingerprint(public_key_der))


def fleet_id(public_key_der: bytes) -> FleetId:
    """The id of the fleet whose authority holds this key (DER of SubjectPublicKeyInfo)."""
    return FleetId(_fingerprint(public_key_der))


def parse_device_id(text: str) -> DeviceId:
    """Raises ValueError unless `text` has the form of a device's id."""
    if not _FINGERPRINT.fullmatch(text):
        raise ValueError(f"not a device id: {text[:80]!r}")
    return DeviceId(text)


def host_name(device: DeviceId) -> str:
    """The DNS name in a device's certificate."""
    return f"{device}.glmfleet.internal"


def gateway_host_name(gateway: DeviceId) -> str:
    """The DNS name in a gateway's certificate: not that of a device, so neither passes for the other."""
    return f"{gateway}.gateway.glmfleet.internal"


def api_host_name(fleet: FleetId) -> str:
    """The DNS name that the HTTP API of a fleet's coordinator has in its certificate, and nobody else's certificate has."""
    return f"{fleet}.api.glmfleet.internal"


def member_id(gateway: DeviceId, local_name: str) -> DeviceId:
    """The id of the device that a gateway knows as `local_name`.

    A hash of both, so whoever has proven to be this gateway can speak for its own devices and for no other: to find a name that gives
    another device's id is as hard as to find a key that does.
    """
    return DeviceId(_base32(f"glmfleet device {local_name!r} behind gateway {gateway}".encode()))


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


def parse_digest(text: str) -> Digest:
    """Raises ValueError unless `text` is 64 lower-case hex digits (so it is safe as a file name)."""
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"not a SHA-256 digest: {text[:80]!r}")
    return Digest(text)
