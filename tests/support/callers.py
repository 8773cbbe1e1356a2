"""Callers of every kind for tests of who may call what: members, strangers, and certificates that no authority should have signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protos.ids import DeviceId, host_name
from protos.net.transport import DEVICE_KEY, Credentials
from tests.support.members import TestFleet, credentials_of
from tests.support.methods import Method

STRANGERS = ("none", "another CA", "expired", "not valid yet", "self-signed")  # with whom TLS makes no connection
_NOW = datetime.now(UTC)


def signed(fleet: TestFleet, uris: list[str], first: timedelta, last: timedelta, *, by_itself: bool = False) -> Credentials:
    """A coordinator's certificate, but for its names and dates. `uris` may have {fleet} and {member} in them; `first` and `last` are
    counted from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    member, authority = DeviceId("b" * 16), fleet.authority
    names = [x509.UniformResourceIdentifier(uri.format(fleet=fleet.fleet_id, member=member)) for uri in uris]
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder(name if by_itself else authority.certificate.subject, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(_NOW + first)
        .not_valid_after(_NOW + last)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host_name(member)), *names]), critical=True)
        .sign(key if by_itself else authority._key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Credentials(certificate.public_bytes(encoding), private, authority.certificate_pem, fleet.fleet_id)


def stranger(fleet: TestFleet, others: TestFleet, kind: str) -> Credentials | None:
    """One of STRANGERS; None: without a certificate."""
    hour, good = timedelta(hours=1), ["glmfleet://{fleet}/coordinator/{member}"]
    match kind:
        case "none":
            return None
        case "another CA":
            return credentials_of(others.member("caller", "coordinator"))
        case "expired":
            return signed(fleet, good, -2 * hour, -hour)
        case "not valid yet":
            return signed(fleet, good, hour, 2 * hour)
        case "self-signed":
            return signed(fleet, good, -hour, hour, by_itself=True)
    raise AssertionError(kind)


def channel_to(address: str, name: str, fleet: TestFleet, me: Credentials | None) -> grpc.aio.Channel:
    """As `me`, to the member whose host name is `name`."""
    key, shown = (me.private_key, me.certificate) if me else (None, None)
    tls = grpc.ssl_channel_credentials(fleet.authority.certificate_pem, key, shown)
    return grpc.aio.secure_channel(address, tls, options=[("grpc.ssl_target_name_override", name)])


async def status(channel: grpc.aio.Channel, method: Method, device: DeviceId, message: bytes = b"") -> grpc.StatusCode | None:
    """How a call with this one message ended; None: it was answered, or ended well."""
    made: Any = channel.stream_stream(method.path)
    for _ in range(3):
        call = made(iter([message]), metadata=((DEVICE_KEY, device),), timeout=10)
        try:
            async for _ in call:
                call.cancel()
                return None
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.INTERNAL:  # gRPC's own, when our message meets the end of the call (protos/net/verdict.py)
                continue
            return error.code()
        return None
    return grpc.StatusCode.INTERNAL
