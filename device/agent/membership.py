"""Being of a fleet: taken in by a certificate, renewed by the next, and leaving it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from device.agent.identity import UNREADABLE, Identity, is_member, own_key, public_der, read_whole, stored_authority, utc_now
from device.files import write_whole
from device.publishers import FOLDER as PUBLISHERS
from protos.enrolment import authority_hash
from protos.errors import Conflict, Denied
from protos.ids import device_id, fleet_id
from protos.net.credentials import Credentials

_KEYS = ("certificate.pem", "authority.pem", "key.pem")  # the certificate first: without it the board is of no fleet
_MODELS = ("blobs", "prepacked")


@dataclass(frozen=True)
class Membership:
    """What a fleet offers: PEM texts of a certificate for this device's key, and of the authority that signed it."""

    certificate: bytes
    authority: bytes


def accept(
    folder: Path, membership: Membership, pinned: bytes | None, *, anew: bool = False, clock: Callable[[], datetime] = utc_now
) -> Identity:
    """Write a membership that we were offered into `folder`, and be it from now on.

    `pinned` is the hash of the authority that alone may take the board. With `anew` it is a member already, of that authority, whose
    certificate has expired. Raises Denied unless the certificate is for the key in `folder`, makes it a device, is valid now, and is from
    the authority beside it; Conflict when there is a certificate already; InvalidInput when it cannot be written.
    """
    if is_member(folder) and not anew:
        raise Conflict("this board belongs to a fleet already", advice="`glmfleet device leave` on it takes it out")
    certificate, authority = _offered(membership.certificate), _offered(membership.authority)
    authority_der = public_der(authority.public_key())
    if pinned is not None and authority_hash(authority_der) != pinned:
        which = "the one it belongs to" if anew else "that of this board's token"
        raise Denied(f"the authority is not {which}", advice="make a token with the fleet that shall have it")
    if certificate.public_key() != own_key(folder).public_key():
        raise Denied("the certificate is for another key than this board's")
    try:
        authority.verify_directly_issued_by(authority)
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except UNREADABLE as error:
        raise Denied("the certificate is not from the authority beside it") from error
    me, fleet = device_id(public_der(certificate.public_key())), fleet_id(authority_der)
    if f"glmfleet://{fleet}/device/{me}" not in names.get_values_for_type(x509.UniformResourceIdentifier):
        raise Denied("the certificate makes this board no device of a fleet")
    _check_dates(certificate, clock())
    # As they were read, and nothing that stood beside them: a second authority in the file would be taken for one.
    certificate_pem, authority_pem = (one.public_bytes(serialization.Encoding.PEM) for one in (certificate, authority))
    write_whole(folder / "authority.pem", authority_pem)
    write_whole(folder / "certificate.pem", certificate_pem)  # last: with it the board is a member
    return Identity(me, fleet, Credentials(certificate_pem, (folder / "key.pem").read_bytes(), authority_pem, fleet))


def renew(folder: Path, credentials: Credentials, offered: bytes, clock: Callable[[], datetime] = utc_now) -> None:
    """Take another certificate (PEM) for what this member is. Raises Denied unless it is for the same key and role, from the same
    authority, and valid now; InvalidInput when it cannot be written."""
    certificate, present = _offered(offered), x509.load_pem_x509_certificate(credentials.certificate)
    authority = x509.load_pem_x509_certificate(credentials.authority)
    try:
        certificate.verify_directly_issued_by(authority)
        same = certificate.public_key() == present.public_key() and _names(certificate) == _names(present)
    except UNREADABLE as error:
        raise Denied("the certificate is not from this member's authority") from error
    if not same:
        raise Denied("the certificate is for another key or role than this member's")
    _check_dates(certificate, clock())
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    write_whole(folder / "certificate.pem", pem)
    credentials.renew(pem)


def pinned_authority(folder: Path) -> bytes:
    """The hash of the authority that the board in `folder` belongs to. Raises Denied."""
    return authority_hash(public_der(stored_authority(folder).public_key()))


def leave(folder: Path, *, wipe: bool) -> bool:
    """Be of no fleet any more; with `wipe` without the key, which was its id, and without the models either. Whether it was of one."""
    was = is_member(folder)
    for name in _KEYS if wipe else _KEYS[:2]:
        (folder / name).unlink(missing_ok=True)
    for name in (*_MODELS, PUBLISHERS) if wipe else (PUBLISHERS,):
        shutil.rmtree(folder / name, ignore_errors=True)
    return was


def _names(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*names.get_values_for_type(x509.UniformResourceIdentifier), *names.get_values_for_type(x509.DNSName)}


def _check_dates(certificate: x509.Certificate, now: datetime) -> None:
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Denied(
            f"the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; it is {now:%Y-%m-%d %H:%M} here",
            advice="set the clocks of this board and of the coordinator's machine",
        )


def authority_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """Of a certificate that a fleet shows as its authority's. Raises Denied."""
    key = _offered(pem).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Denied("what was offered as an authority has another kind of key")
    return key


def _offered(pem: bytes) -> x509.Certificate:
    try:
        (certificate,) = read_whole(x509.load_pem_x509_certificates, pem)
    except UNREADABLE as error:
        raise Denied("what was offered is no certificate, or more than one") from error
    return certificate
