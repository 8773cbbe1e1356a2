"""Enrolment tokens: what a fleet keeps of them, and what it says of one that is shown."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from fleet.home import locked, write_private
from protos.enrolment import LONGEST_TOKEN_SECONDS, USUAL_TOKEN_SECONDS, Refusal, Token, new_token, signed_text
from protos.errors import Corrupt, InvalidInput, NotFound
from protos.ids import DeviceId

MOST_TOKENS = 1000  # that are good at a time
_KEPT_SECONDS = 7 * 86400.0  # a token that is no good any more: so long it is known why

Verdict: TypeAlias = Literal["good"] | Refusal


@dataclass(frozen=True)
class TokenRecord:
    """What is kept of a token: who has only this cannot use it. Times in unix seconds."""

    public_key: bytes
    made: float
    expires: float
    used_by: str = ""  # a device's id

    @property
    def token_id(self) -> str:
        """How people name it: 8 hexadecimal characters."""
        return hashlib.sha256(self.public_key).hexdigest()[:8]


def judge(records: Mapping[bytes, TokenRecord], public_key: bytes, signature: bytes, device: DeviceId, nonce: bytes, now: float) -> Verdict:
    """What this fleet says of a token that `device` shows, answering `nonce`. One that this very device has used is good: the fleet's
    answer may have been lost."""
    record = records.get(public_key)
    if record is None:
        return "unknown"
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed_text(device, nonce))
    except (InvalidSignature, ValueError):
        return "forged"
    if record.used_by:
        return "good" if record.used_by == device else "used"
    return "good" if now < record.expires else "expired"


class Tokens:
    """The tokens of one fleet, in a file beside its authority. Blocks for some milliseconds; processes do not disturb each other."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._file = folder / "tokens.json"
        self._lock = folder / "tokens.lock"
        self._clock = clock

    def make(self, authority_der: bytes, life_seconds: float = USUAL_TOKEN_SECONDS) -> tuple[Token, TokenRecord]:
        """A token for one board. It is told once: the fleet keeps only the key that proves it. Raises InvalidInput."""
        if not 0 < life_seconds <= LONGEST_TOKEN_SECONDS:
            raise InvalidInput(f"a token for {life_seconds:g} s", advice=f"up to {LONGEST_TOKEN_SECONDS / 86400:g} days")
        token, now = new_token(authority_der), self._clock()
        key = ed25519.Ed25519PrivateKey.from_private_bytes(token.key_seed).public_key().public_bytes_raw()
        record = TokenRecord(key, now, now + life_seconds)
        with self._changing() as records:
            if sum(not one.used_by and one.expires > now for one in records.values()) >= MOST_TOKENS:
                raise InvalidInput(f"{MOST_TOKENS} tokens are good already", advice="take some back with `glmfleet devices token --revoke`")
            records[key] = record
        return token, record

    def all(self) -> list[TokenRecord]:
        """The newest first."""
        return sorted(self._read().values(), key=lambda record: -record.made)

    def revoke(self, token_id: str) -> None:
        """Raises NotFound."""
        with self._changing() as records:
            found = next((record for record in records.values() if record.token_id == token_id), None)
            if found is None:
                raise NotFound(f"no token {token_id!r}", advice="`glmfleet devices token --list` shows them")
            del records[found.public_key]

    def use(self, public_key: bytes, signature: bytes, device: DeviceId, nonce: bytes) -> Verdict:
        """Judge it and, when it is good, mark it as used by this device."""
        with self._changing() as records:
            verdict = judge(records, public_key, signature, device, nonce, self._clock())
            if verdict == "good":
                records[public_key] = replace(records[public_key], used_by=device)
        return verdict

    @contextmanager
    def _changing(self) -> Iterator[dict[bytes, TokenRecord]]:
        with locked(self._lock):
            records = self._read()
            before = dict(records)
            yield records
            now = self._clock()
            kept = [record for record in records.values() if record.expires + _KEPT_SECONDS > now]
            if records != before or len(kept) < len(records):
                write_private(self._file, json.dumps([_plain(record) for record in kept], indent=1).encode())

    def _read(self) -> dict[bytes, TokenRecord]:
        try:
            entries = json.loads(self._file.read_bytes())
            return {record.public_key: record for record in map(_record, entries)}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{self._file} cannot be read: {error}", advice="remove it: tokens given out are then no good") from error


def _plain(record: TokenRecord) -> dict[str, Any]:
    return {"public_key": record.public_key.hex(), "made": record.made, "expires": record.expires, "used_by": record.used_by}


def _record(entry: Mapping[str, Any]) -> TokenRecord:
    return TokenRecord(bytes.fromhex(entry["public_key"]), float(entry["made"]), float(entry["expires"]), str(entry["used_by"]))
