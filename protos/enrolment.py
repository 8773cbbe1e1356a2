"""What a board and a coordinator must agree on when the board joins a fleet: fingerprints in words, tokens, what is signed."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, TypeAlias

from mnemonic import Mnemonic

from protos.errors import Denied, InvalidInput
from protos.ids import DeviceId, FleetId

# In the place of a fleet's id in the advert of a board that belongs to none. An id has 16 characters.
ENROLLABLE = FleetId("enrollable")

TOKEN_VARIABLE = "GLMFLEET_TOKEN"  # by which the agent is given a token

WORDS = 5  # of 11 bits each: who wants a key with the same words has to make 2**55
SECRET_BYTES = 16
USUAL_TOKEN_SECONDS, LONGEST_TOKEN_SECONDS = 3600.0, 30 * 86400.0  # that a token is good
NONCE_BYTES = 16
_PREFIX = "glmfleet-"
_ADVICE = "copy all of it, as `glmfleet devices token` showed it"


def words(device: DeviceId) -> str:
    """The fingerprint of a device as both screens show it: the first 55 bits of the SHA-256 of its id, five words of BIP 39's English list.

    >>> words(DeviceId("a" * 16))
    'army gap recipe valve jeans'
    """
    number = int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big") >> (64 - 11 * WORDS)
    return " ".join(_word_list()[number >> (11 * place) & 2047] for place in reversed(range(WORDS)))


def fleet_words(authority: bytes) -> str:
    """The fingerprint of a fleet, made of `authority_hash`, as `words` is of a device: to be compared by whoever trusts it from now on."""
    return words(DeviceId(f"fleet {authority.hex()}"))


@cache
def _word_list() -> list[str]:
    return list(Mnemonic("english").wordlist)


@dataclass(frozen=True)
class Token:
    """Lets one board into one fleet without a hand. `secret` is for the board alone: the fleet keeps the public half of the key made of it.
    `authority` is the SHA-256 of the authority's public key (DER of SubjectPublicKeyInfo): the only one that may take the board."""

    secret: bytes = field(repr=False)
    authority: bytes

    @property
    def text(self) -> str:
        """In one word, for a command line: 86 characters."""
        return _PREFIX + base64.b32encode(self.secret + self.authority).decode().rstrip("=").lower()

    @property
    def key_seed(self) -> bytes:
        """The 32 bytes of the Ed25519 private key."""
        return hashlib.sha256(b"glmfleet enrolment token\0" + self.secret).digest()


def new_token(authority_der: bytes) -> Token:
    """For the fleet whose authority has this public key (DER of SubjectPublicKeyInfo)."""
    return Token(secrets.token_bytes(SECRET_BYTES), authority_hash(authority_der))


def parse_token(text: str) -> Token:
    """Raises InvalidInput, which does not repeat the text."""
    body = text.strip().lower().removeprefix(_PREFIX)
    try:
        data = base64.b32decode((body + "=" * (-len(body) % 8)).upper())
    except ValueError:
        data = b""
    token = Token(data[:SECRET_BYTES], data[SECRET_BYTES:])
    if len(data) != SECRET_BYTES + 32 or token.text != text.strip().lower():  # its last character has a bit to spare
        raise InvalidInput("not an enrolment token", advice=_ADVICE)
    return token


Refusal: TypeAlias = Literal["unknown", "expired", "used", "forged"]
_REFUSED: dict[Refusal, str] = {
    "unknown": "its token is not one of this fleet",
    "expired": "its token has expired",
    "used": "its token was used by another board",
    "forged": "its token's proof is false",
}


class TokenRefused(Denied):
    """A board's token is no good. `reason` is for programs: "token_expired"."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(_REFUSED[refusal], advice="make another with `glmfleet devices token`, where the coordinator runs")
        self.reason = f"token_{refusal}"


def authority_hash(public_key_der: bytes) -> bytes:
    return hashlib.sha256(public_key_der).digest()


def refusal_text(device: DeviceId, token_key: bytes, reason: int) -> bytes:
    """What a fleet's authority signs: that it does not take in this device by the token of this public key."""
    return b"glmfleet refusal 1\0" + device.encode() + b"\0" + token_key + b"\0" + str(reason).encode()


def signed_text(device: DeviceId, nonce: bytes) -> bytes:
    """What a token's key signs: that this device applies, to whoever made the nonce."""
    return b"glmfleet enrolment 1\0" + device.encode() + b"\0" + nonce
