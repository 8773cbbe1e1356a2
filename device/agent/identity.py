"""Who this device is: its key, and the certificate by which its fleet vouches for it."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.utils import CryptographyDeprecationWarning

from protos.enrolment import Token, authority_hash
from protos.errors import Conflict, Denied, FleetError, InvalidInput
from protos.ids import DeviceId, FleetId, device_id, fleet_id
from protos.net.transport import Credentials

INSECURE_FLEET = FleetId("insecure")
# What the library says of bytes that are no certificate, or an odd one.
UNREADABLE = (
    *(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm),
    *(
        CryptographyDeprecationWarning,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        x509.UnsupportedGeneralNameType,
    ),
)
_ADVICE = "have its fleet issue one: `glmfleet sim up` does for simulated devices, `glmfleet device run` for this machine"


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Identity:
    """A member of a fleet. Without credentials (--insecure) nobody vouches for it."""

    device_id: DeviceId
    fleet_id: FleetId
    credentials: Credentials | None


@dataclass(frozen=True)
class Membership:
    """What a fleet offers: PEM texts of a certificate for this device's key, and of the authority that signed it."""

    certificate: bytes
    authority: bytes


def load_identity(folder: Path, clock: Callable[[], datetime] = utc_now) -> Identity:
    """The identity in key.pem, certificate.pem and authority.pem of `folder`.

    Raises Denied when one is missing or unreadable, when they do not belong together, or when the certificate is not valid now.
    """
    key_pem, certificate_pem, authority_pem = (_read(folder, name) for name in ("key.pem", "certificate.pem", "authority.pem"))
    certificate = _certificate(certificate_pem, folder / "certificate.pem")
    authority = _certificate(authority_pem, folder / "authority.pem")
    if _key(key_pem, folder / "key.pem").public_key() != certificate.public_key():
        raise Denied(f"the key in {folder} does not belong to its certificate", advice=_ADVICE)
    try:
        authority.verify_directly_issued_by(authority)
        certificate.verify_directly_issued_by(authority)
    except UNREADABLE as error:
        raise Denied(f"the certificate in {folder} is not from the authority beside it", advice=_ADVICE) from error
    now = clock()
    for one, what in ((certificate, "certificate"), (authority, "authority")):
        if now > one.not_valid_after_utc:
            raise Denied(f"the {what} in {folder} expired on {one.not_valid_after_utc:%Y-%m-%d}", advice=_ADVICE)
        if now < one.not_valid_before_utc:
            detail = f"the {what} in {folder} is valid from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; it is {now:%Y-%m-%d %H:%M} here"
            raise Denied(detail, advice="set this machine's clock")
    return Identity(
        device_id(_public_der(certificate.public_key())),
        fleet_id(_public_der(authority.public_key())),
        Credentials(certificate_pem, key_pem, authority_pem),
    )


def insecure_identity(folder: Path) -> Identity:
    """A key alone, made in `folder` at first start: enough for an id, for --insecure. Raises InvalidInput, Denied."""
    return Identity(device_id(_public_der(own_key(folder).public_key())), INSECURE_FLEET, None)


def own_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The key in `folder`, made at first use. Raises InvalidInput, Denied."""
    path = folder / "key.pem"
    if not path.exists():
        _make_key(path)
    return _key(_read(folder, "key.pem"), path)


def is_member(folder: Path) -> bool:
    """Whether some fleet's certificate lies in `folder`, be it good or not."""
    return (folder / "certificate.pem").exists()


def accept(folder: Path, membership: Membership, token: Token | None) -> Identity:
    """Write a membership that we were offered into `folder`, and be it from now on.

    Raises Denied unless the certificate is for the key in `folder`, makes it a device, and is from the authority beside it, which has to be
    the token's where there is one; Conflict when there is a certificate already; InvalidInput when it cannot be written.
    """
    if is_member(folder):
        raise Conflict("this board belongs to a fleet already", advice="`glmfleet device leave` on it takes it out")
    certificate, authority = _offered(membership.certificate), _offered(membership.authority)
    authority_der = _public_der(authority.public_key())
    if token is not None and authority_hash(authority_der) != token.authority:
        raise Denied("the authority is not that of this board's token", advice="make a token with the fleet that shall have it")
    if certificate.public_key() != own_key(folder).public_key():
        raise Denied("the certificate is for another key than this board's")
    try:
        authority.verify_directly_issued_by(authority)
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except UNREADABLE as error:
        raise Denied("the certificate is not from the authority beside it") from error
    me, fleet = device_id(_public_der(certificate.public_key())), fleet_id(authority_der)
    if f"glmfleet://{fleet}/device/{me}" not in names.get_values_for_type(x509.UniformResourceIdentifier):
        raise Denied("the certificate makes this board no device of a fleet")
    # As they were read, and nothing that stood beside them: a second authority in the file would be taken for one.
    certificate_pem, authority_pem = (one.public_bytes(serialization.Encoding.PEM) for one in (certificate, authority))
    _write(folder / "authority.pem", authority_pem)
    _write(folder / "certificate.pem", certificate_pem)  # last: with it the board is a member
    return Identity(me, fleet, Credentials(certificate_pem, _read(folder, "key.pem"), authority_pem))


def _offered(pem: bytes) -> x509.Certificate:
    try:
        (certificate,) = _read_whole(x509.load_pem_x509_certificates, pem)
        return certificate
    except UNREADABLE as error:
        raise Denied("what was offered is no certificate, or more than one") from error


def _read_whole(load: Callable[[bytes], list[x509.Certificate]], pem: bytes) -> list[x509.Certificate]:
    """Raises UNREADABLE, also for what the library will refuse soon."""
    with warnings.catch_warnings(action="error", category=CryptographyDeprecationWarning):
        found = load(pem)
    for one in found:  # what is wrong with its parts is told only when they are asked for
        one.public_key(), one.extensions, one.not_valid_before_utc, one.not_valid_after_utc
    return found


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            part.touch(mode=0o600)
            part.write_bytes(data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}", advice="choose another folder with --home") from error


def _make_key(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    part = path.with_name(f".key.pem.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            part.touch(mode=0o600)
            part.write_bytes(pem)
            with contextlib.suppress(FileExistsError):  # another process was first: its key counts
                os.link(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}", advice="choose another folder with --home") from error


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise Denied(f"this device has no identity: {folder / name} is missing", advice=_ADVICE) from error
    except OSError as error:
        raise Denied(f"cannot read {folder / name}: {error.strerror}", advice="run as the user who owns it") from error


def _key(pem: bytes, path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except UNREADABLE as error:
        raise _unreadable(path) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unreadable(path)
    return key


def _certificate(pem: bytes, path: Path) -> x509.Certificate:
    try:
        return _read_whole(lambda data: [x509.load_pem_x509_certificate(data)], pem)[0]
    except UNREADABLE as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> FleetError:
    return Denied(f"{path} is damaged", advice=f"remove it and {_ADVICE}")


def _public_der(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
