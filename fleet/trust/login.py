"""A coordinator on another machine, as a home knows it: where it answers, which authority it shows, and with which key it is asked."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fleet.home import Home, write_private
from fleet.trust.keys import PREFIX, SECRET_BYTES
from protos.enrolment import authority_hash, fleet_words
from protos.errors import Corrupt, Denied, InvalidInput
from protos.ids import FleetId, fleet_id

_CODE_PREFIX = "glmfleet-login-"
_HASH_BYTES = 32
_ADVICE = "copy all of it, as `glmfleet keys create --login` showed it"


@dataclass(frozen=True)
class Login:
    """`address`: "host:port"; `authority`: PEM; `name` and `role`: whose key it is."""

    address: str
    authority: str
    key: str = field(repr=False)
    name: str
    role: str

    @property
    def fleet(self) -> FleetId:
        return fleet_id(public_der(self.authority))


@dataclass(frozen=True)
class LoginCode:
    """All that a login needs, in one word: `addresses` ("host:port"), the authority's hash, the key."""

    addresses: tuple[str, ...]
    authority: bytes
    key: str = field(repr=False)

    @property
    def text(self) -> str:
        secret = base64.b32decode(self.key.removeprefix(PREFIX).upper())
        return _CODE_PREFIX + base64.urlsafe_b64encode(self.authority + secret + ",".join(self.addresses).encode()).decode().rstrip("=")


def is_code(text: str) -> bool:
    return text.strip().startswith(_CODE_PREFIX)


def parse_code(text: str) -> LoginCode:
    """Raises InvalidInput, which does not repeat the text."""
    body = text.strip().removeprefix(_CODE_PREFIX)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        addresses = tuple(data[_HASH_BYTES + SECRET_BYTES :].decode().split(","))
    except ValueError as error:
        raise InvalidInput("not a login code", advice=_ADVICE) from error
    if not all(addresses):
        raise InvalidInput("not a login code", advice=_ADVICE)
    key = PREFIX + base64.b32encode(data[_HASH_BYTES : _HASH_BYTES + SECRET_BYTES]).decode().lower()
    return LoginCode(addresses, data[:_HASH_BYTES], key)


def the_certificate(authority_pem: str) -> x509.Certificate:
    """The only one in it. Raises Denied when it is none, or more: whoever looks at the first would trust them all."""
    try:
        (certificate,) = x509.load_pem_x509_certificates(authority_pem.encode())
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise Denied("what was shown as the fleet's authority is no certificate, or more than one") from error
    return certificate


def certificate_der(authority_pem: str) -> bytes:
    """Raises Denied."""
    return the_certificate(authority_pem).public_bytes(serialization.Encoding.DER)


def public_der(authority_pem: str) -> bytes:
    """Of the key of an authority's certificate: DER of SubjectPublicKeyInfo. Raises Denied."""
    key = the_certificate(authority_pem).public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def is_named(authority_pem: str, name: str) -> bool:
    """Whether it is the authority of this SHA-256 in hexadecimal, or of these five words."""
    digest = authority_hash(public_der(authority_pem))
    return " ".join(name.lower().split()) in (digest.hex(), fleet_words(digest))


def read_login(home: Home) -> Login | None:
    """None where there is none. Raises Corrupt."""
    try:
        return Login(**json.loads(home.login.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise Corrupt(f"{home.login} cannot be read: {error}", advice="`glmfleet logout`, and log in again") from error


def write_login(home: Home, login: Login) -> None:
    """With mode 0600. Raises NoSpace, InvalidInput."""
    write_private(home.login, json.dumps(asdict(login), indent=1).encode())
