"""The fleet authority: the key that says which devices and coordinators belong to this fleet."""

from __future__ import annotations

import ipaddress
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet.home import locked, write_private
from fleet.trust.members import Members
from protos.errors import Denied, InvalidInput
from protos.ids import DeviceId, FleetId, device_id, fleet_id, gateway_host_name, host_name
from protos.modes import check_folder, close_file

Role = Literal["device", "coordinator", "gateway"]
Clock = Callable[[], datetime]

# An authority's life is long, because every device must be visited to change it. A member's is short: who steals its key has it for a day,
# though nobody be told.
AUTHORITY_LIFE, AUTHORITY_RENEWED = timedelta(days=3650), timedelta(days=365)
MEMBER_LIFE = timedelta(hours=24)
SHORTEST_LIFE, LONGEST_LIFE = timedelta(minutes=10), timedelta(days=365)
FIRST_RENEWAL, LAST_RENEWAL = 0.7, 0.9  # of its life: members are renewed at different times in between
CLOCK_SKEW = timedelta(minutes=5)
BACKDATED = timedelta(hours=24)  # a certificate is good now where the clock is behind ours: when it was made matters to nobody
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
NAME_LENGTH = 64  # ub-common-name of RFC 5280


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Authority:
    """EC P-256. Its id is the fleet's; what it signs is of the fleet."""

    fleet_id: FleetId
    certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey = field(repr=False)
    members: Members = field(repr=False)
    life: timedelta = MEMBER_LIFE  # of what it signs
    _clock: Clock = field(default=utc_now, repr=False)

    @classmethod
    def open(cls, folder: Path, clock: Clock = utc_now, life: timedelta = MEMBER_LIFE) -> Authority:
        """The authority in `folder`, made there at first use; two processes at once end with the same one.

        Blocks for some milliseconds. Raises Denied when what is there is damaged: it is never replaced silently,
        since every device would have to be enrolled again.
        """
        _make_folder(folder)
        key_file, certificate_file = folder / "key.pem", folder / "certificate.pem"
        with locked(folder / "lock"):
            if certificate_file.exists() and not key_file.exists():
                raise Denied(
                    f"the fleet's key {key_file} is gone", advice="restore it from a backup, or start a new fleet with another --home"
                )
            key = _open_key(key_file)
            certificate = _read_certificate(certificate_file)
            if certificate is not None and certificate.public_key() != key.public_key():
                raise Denied(f"{certificate_file} is of another key than {key_file}", advice="restore both from one backup")
            if certificate is None or not _is_whole(certificate) or certificate.not_valid_after_utc - clock() < AUTHORITY_RENEWED:
                # With the same key: members' certificates stay good under the new one.
                certificate = _self_signed(key, clock())
                write_private(certificate_file, _pem(certificate))
        members = Members(folder, lambda: clock().timestamp())
        return cls(fleet_id(_public_der(key.public_key())), certificate, key, members, life, clock)

    @property
    def public_der(self) -> bytes:
        """Of its key: DER of SubjectPublicKeyInfo."""
        return _public_der(self._key.public_key())

    @property
    def certificate_pem(self) -> bytes:
        return _pem(self.certificate)

    def sign(self, csr_pem: bytes, role: Role, expected: DeviceId | None = None) -> bytes:
        """The PEM certificate for a PEM signing request: its key and common name are taken, all else is ours to say.

        The caller decides whether the asker may be of the fleet. Blocks for some milliseconds. Raises Denied unless the request is signed
        by its own EC P-256 key, that of the `expected` member if one is, and for one that was expelled; InvalidInput for a bad name.
        """
        try:
            request = x509.load_pem_x509_csr(csr_pem)
            key, proven, name = request.public_key(), request.is_signature_valid, _common_name(request.subject)
        except UNREADABLE as error:
            raise Denied("not a certificate signing request") from error
        if not proven or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise Denied("the signing request is not signed by an EC P-256 key of its own")
        name = _checked_name(name)
        now = self._clock()
        member = device_id(_public_der(key))
        if expected not in (None, member):
            raise Denied(f"the signing request is of {member}'s key, not of {expected}'s")
        self.members.admit(member, role, name)
        host = gateway_host_name(member) if role == "gateway" else host_name(member)
        names = [x509.DNSName(host), x509.UniformResourceIdentifier(f"glmfleet://{self.fleet_id}/{role}/{member}")]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]  # a stage serves one neighbour and dials the other
        certificate = (
            _builder(_name(name), self.certificate.subject, key, now, min(now + self.life, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _pem(certificate)

    def sign_server(self, key: ec.EllipticCurvePublicKey, dns: Sequence[str], addresses: Sequence[str]) -> bytes:
        """The PEM certificate of the coordinator's HTTP API, by whatever clients call it. It makes nobody a member of the fleet."""
        now = self._clock()
        names = [*map(x509.DNSName, dns), *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses)]
        certificate = (
            _builder(_name("glmfleet API"), self.certificate.subject, key, now, min(now + self.life, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _pem(certificate)

    def signature(self, text: bytes) -> bytes:
        """ECDSA with SHA-256, which the holder of our certificate can check."""
        return self._key.sign(text, ec.ECDSA(hashes.SHA256()))

    def issue_folder(self, folder: Path, role: Role, name: str) -> None:
        """See that `folder` holds a member's key.pem (made when missing), certificate.pem and authority.pem.

        Repeatable: a certificate is kept while it is this authority's, of this key, role and name, and not due to be renewed.
        Blocks for some milliseconds. Raises InvalidInput for a bad name, Denied for one that was expelled.
        """
        _checked_name(name)
        _make_folder(folder)
        with locked(folder / "lock"):
            key = _open_key(folder / "key.pem")
            if not self._is_current(_read_certificate(folder / "certificate.pem"), key.public_key(), role, name):
                request = x509.CertificateSigningRequestBuilder().subject_name(_name(name)).sign(key, hashes.SHA256())
                write_private(folder / "certificate.pem", self.sign(request.public_bytes(serialization.Encoding.PEM), role))
            if _read_bytes(folder / "authority.pem") != self.certificate_pem:
                write_private(folder / "authority.pem", self.certificate_pem)

    def _is_current(self, certificate: x509.Certificate | None, key: ec.EllipticCurvePublicKey, role: Role, name: str) -> bool:
        left = None if certificate is None else certificate.not_valid_after_utc - self._clock()
        # One that lives longer than this fleet's do is of a release before, or of another setting.
        if certificate is None or left is None or not (1 - FIRST_RENEWAL) * self.life <= left <= self.life + CLOCK_SKEW:
            return False
        try:
            certificate.verify_directly_issued_by(self.certificate)
            alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except UNREADABLE:
            return False
        wanted = f"glmfleet://{self.fleet_id}/{role}/{device_id(_public_der(key))}"
        uris = alternatives.get_values_for_type(x509.UniformResourceIdentifier)
        return wanted in uris and _common_name(certificate.subject) == name


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot make the folder {folder}: {error.strerror}", advice="choose another folder with --home") from error
    check_folder(folder)


def _open_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in the file, made when there is none. Call under the folder's lock."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_private(path, pem)
        return key
    close_file(path)
    try:
        found = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, *UNREADABLE) as error:
        raise Denied(f"{path} holds no readable key", advice="restore it from a backup") from error
    if not isinstance(found, ec.EllipticCurvePrivateKey) or not isinstance(found.curve, ec.SECP256R1):
        raise Denied(f"the key in {path} is not EC P-256", advice="restore it from a backup")
    return found


def _read_certificate(path: Path) -> x509.Certificate | None:
    """None when it is missing or unreadable: a certificate can be made again from its key."""
    try:
        with warnings.catch_warnings(action="error", category=CryptographyDeprecationWarning):  # what will be an error soon is one now
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        # What is wrong with its parts is told only when they are asked for.
        certificate.public_key(), certificate.extensions, certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return certificate
    except (OSError, *UNREADABLE):
        return None


def _is_whole(certificate: x509.Certificate) -> bool:
    """Signed by itself, as it stands there."""
    try:
        certificate.verify_directly_issued_by(certificate)
    except UNREADABLE:
        return False
    return True


def _read_bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _self_signed(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    subject = _name(f"glmfleet {fleet_id(_public_der(key.public_key()))}")
    return (
        _builder(subject, subject, key.public_key(), now, now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _common_name(subject: x509.Name) -> str:
    """The first common name, or ""."""
    for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        return attribute.value if isinstance(attribute.value, str) else ""
    return ""


def _checked_name(name: str) -> str:
    if not name.isprintable() or not name.strip() or len(name.encode()) > NAME_LENGTH:
        raise InvalidInput(f"not a name: {name[:80]!r}", advice=f"use 1 to {NAME_LENGTH} printable characters")
    return name


def _public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
