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
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from protos.errors import Denied, FleetError, InvalidInput
from protos.ids import DeviceId, FleetId, device_id, fleet_id
from protos.modes import close_file
from protos.net.credentials import Credentials

INSECURE_FLEET = FleetId("insecure")
# What the library says of bytes that are no certificate, or an odd one.
UNREADABLE = (
    *(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, CryptographyDeprecationWarning),
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.ExtensionNotFound, x509.UnsupportedGeneralNameType),
)
_ADVICE = "`glmfleet device leave`, then `glmfleet device run`: it gets another (a simulated device by `glmfleet sim up`)"


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Identity:
    """A member of a fleet. Without credentials (--insecure) nobody vouches for it."""

    device_id: DeviceId
    fleet_id: FleetId
    credentials: Credentials | None


class Expired(Denied):
    """The certificate alone has expired: its fleet may issue another."""


def load_identity(folder: Path, clock: Callable[[], datetime] = utc_now) -> Identity:
    """The identity in key.pem, certificate.pem and authority.pem of `folder`.

    Raises Denied when one is missing or unreadable, when they do not belong together, or when the certificate is not valid now: Expired
    when that is all that is wrong.
    """
    close_file(folder / "key.pem")
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
    if authority.not_valid_before_utc <= now <= authority.not_valid_after_utc and now > certificate.not_valid_after_utc:
        raise Expired(f"the certificate in {folder} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC", advice=_ADVICE)
    for one, what in ((certificate, "certificate"), (authority, "authority")):
        if now > one.not_valid_after_utc:
            raise Denied(f"the {what} in {folder} expired on {one.not_valid_after_utc:%Y-%m-%d}", advice=_ADVICE)
        if now < one.not_valid_before_utc:
            detail = f"the {what} in {folder} is valid from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; it is {now:%Y-%m-%d %H:%M} here"
            raise Denied(detail, advice="set this machine's clock")
    fleet = fleet_id(public_der(authority.public_key()))
    return Identity(device_id(public_der(certificate.public_key())), fleet, Credentials(certificate_pem, key_pem, authority_pem, fleet))


def has_expired(credentials: Credentials, now: datetime) -> bool:
    """Whether the certificate that it shows now has ended."""
    return now > x509.load_pem_x509_certificate(credentials.certificate).not_valid_after_utc


def insecure_identity(folder: Path) -> Identity:
    """A key alone, made in `folder` at first start: enough for an id, for --insecure. Raises InvalidInput, Denied."""
    return Identity(device_id(public_der(own_key(folder).public_key())), INSECURE_FLEET, None)


def own_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The key in `folder`, made at first use. Raises InvalidInput, Denied."""
    path = folder / "key.pem"
    if not path.exists():
        _make_key(path)
    close_file(path)
    return _key(_read(folder, "key.pem"), path)


def is_member(folder: Path) -> bool:
    """Whether some fleet's certificate lies in `folder`, be it good or not."""
    return (folder / "certificate.pem").exists()


def stored_authority(folder: Path) -> x509.Certificate:
    """The authority of the fleet that the board in `folder` belongs to. Raises Denied."""
    return _certificate(_read(folder, "authority.pem"), folder / "authority.pem")


def read_whole(load: Callable[[bytes], list[x509.Certificate]], pem: bytes) -> list[x509.Certificate]:
    """Raises UNREADABLE, also for what the library will refuse soon."""
    with warnings.catch_warnings(action="error", category=CryptographyDeprecationWarning):
        found = load(pem)
    for one in found:  # what is wrong with its parts is told only when they are asked for
        one.public_key(), one.extensions, one.not_valid_before_utc, one.not_valid_after_utc
    return found


def public_der(key: CertificatePublicKeyTypes) -> bytes:
    """SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


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
        return read_whole(lambda data: [x509.load_pem_x509_certificate(data)], pem)[0]
    except UNREADABLE as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> FleetError:
    return Denied(f"{path} is damaged", advice=f"remove it and {_ADVICE}")
