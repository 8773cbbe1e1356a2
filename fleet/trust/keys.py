"""Keys of the API: who holds one, in which role, until when, and how much it may use."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fleet.access import KeyView, NewKey
from fleet.home import write_private
from fleet.principal import ROLES, OverBudget, Principal, Role, Unauthenticated
from protos.errors import Conflict, Corrupt, InvalidInput, NotFound

PREFIX = "glmfleet-key-"
SECRET_BYTES = 20  # 160 bits
MOST_KEYS = 1000
LONGEST_NAME = 64
WRITE_SECONDS = 10.0  # between two writes of what keys have used
_KEPT_SECONDS = 90 * 86400.0  # a key that is no good any more: so long it is known why
_DAY = 86400.0
_BAD_KEY = "make another with `glmfleet keys create`, where the coordinator runs"


@dataclass(frozen=True)
class KeyRecord:
    """What is kept of a key. Its `digest` is a plain SHA-256: a key has 160 random bits, so there is nothing to guess that a slow hash
    would slow down, and every request pays for it. Times in unix seconds."""

    digest: str
    name: str
    role: Role
    made: float
    expires: float | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    revoked: float | None = None

    @property
    def key_id(self) -> str:
        """How people name it: 8 hexadecimal characters."""
        return self.digest[:8]


@dataclass
class Use:
    """What a key has used: `tokens` on the `day` (since 1970, UTC); `allowance` of requests as of `at`."""

    last_used: float | None = None
    day: int = 0
    tokens: int = 0
    allowance: float = field(default=math.inf)
    at: float = 0.0


class ApiKeys:
    """The keys of one fleet, in memory and in files of one process. Making and revoking block for some milliseconds."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        """Raises Corrupt for files that cannot be read."""
        self._file, self._use_file = folder / "keys.json", folder / "key-use.json"
        self._clock = clock
        self._records = {record.digest: record for record in map(_record, _read(self._file))}
        self._use = {entry["key_id"]: Use(entry["last_used"], entry["day"], entry["tokens"]) for entry in _read(self._use_file)}
        self._unwritten = False

    def all(self) -> list[KeyView]:
        """The newest first."""
        return [self._view(record) for record in sorted(self._records.values(), key=lambda one: -one.made)]

    def make(self, wish: NewKey) -> KeyView:
        """A key, told this once. Raises InvalidInput, Conflict (a good key has that name)."""
        _check(wish)
        now = self._clock()
        if any(one.name == wish.name for one in self._records.values() if self._state(one) == "good"):
            raise Conflict(f"there is a key {wish.name!r} already", advice="choose another name, or revoke it first")
        if len(self._records) >= MOST_KEYS:
            raise InvalidInput(f"there are {MOST_KEYS} keys already", advice="those that are no good are forgotten after 90 days")
        key = PREFIX + base64.b32encode(secrets.token_bytes(SECRET_BYTES)).decode().lower()
        expires = None if wish.life_seconds is None else now + wish.life_seconds
        record = KeyRecord(digest_of(key), wish.name, wish.role, now, expires, wish.requests_per_minute, wish.tokens_per_day)
        self._keep({**self._records, record.digest: record})
        return replace(self._view(record), key=key)

    def revoke(self, key_id: str) -> KeyView:
        """By id, or by the name of a good one. Raises NotFound."""
        named = [one for one in self._records.values() if one.name == key_id and self._state(one) == "good"]
        found = next((one for one in self._records.values() if one.key_id == key_id), named[0] if named else None)
        if found is None:
            raise NotFound(f"no key {key_id[:80]!r}", advice="`glmfleet keys list` shows them")
        revoked = replace(found, revoked=found.revoked or self._clock())
        self._keep({**self._records, found.digest: revoked})
        return self._view(revoked)

    def authenticate(self, key: str) -> Principal:
        """Whose key it is; counts the request. Raises Unauthenticated, OverBudget."""
        record = self._records.get(digest_of(key))  # by its hash: how long the look takes says nothing of a key
        if record is None:
            raise Unauthenticated("this key is not one of this fleet", "unknown_key", advice=_BAD_KEY)
        self._check_good(record)
        self._count_request(record)
        return Principal(record.name, record.role, record.key_id)

    def check(self, key_id: str) -> None:
        """Raises Unauthenticated when it is no good any more, OverBudget when its tokens of this day are spent."""
        record = self._by_id(key_id)
        self._check_good(record)
        if record.tokens_per_day is not None and self._used(record).tokens >= record.tokens_per_day:
            wait = _DAY - self._clock() % _DAY
            raise OverBudget(
                f"the key {record.name} has used its {record.tokens_per_day} tokens of this day (UTC)",
                "tokens",
                advice="wait for the next day, or ask for a key with a larger budget",
                retry_after_seconds=wait,
            )

    def still_good(self, key_id: str) -> None:
        """For what goes on for long. Raises Unauthenticated."""
        self._check_good(self._by_id(key_id))

    def spend(self, key_id: str, tokens: int) -> None:
        """These were computed for it."""
        self._used(self._by_id(key_id)).tokens += tokens
        self._unwritten = True

    def write_use(self) -> None:
        """What keys have used, into its file, when it has changed. Blocks. Raises NoSpace, InvalidInput."""
        if not self._unwritten:
            return
        self._unwritten = False
        entries = [
            {"key_id": key_id, "last_used": use.last_used, "day": use.day, "tokens": use.tokens} for key_id, use in list(self._use.items())
        ]
        write_private(self._use_file, json.dumps(entries, indent=1).encode())

    def _count_request(self, record: KeyRecord) -> None:
        use, now = self._used(record), self._clock()
        use.last_used, self._unwritten = now, True
        if (most := record.requests_per_minute) is None:
            return
        # A bucket that holds a minute's requests and is refilled evenly.
        allowance = min(float(most), use.allowance + max(0.0, now - use.at) * most / 60)
        use.at = now
        use.allowance = allowance - 1 if allowance >= 1 else allowance
        if allowance < 1:
            raise OverBudget(
                f"the key {record.name} has used its {most} requests of this minute",
                "requests",
                advice="wait, or ask for a key with a larger budget",
                retry_after_seconds=(1 - allowance) * 60 / most,
            )

    def _used(self, record: KeyRecord) -> Use:
        use, today = self._use.setdefault(record.key_id, Use()), int(self._clock() // _DAY)
        if use.day != today:
            use.day, use.tokens = today, 0
        return use

    def _by_id(self, key_id: str) -> KeyRecord:
        for record in self._records.values():
            if record.key_id == key_id:
                return record
        raise Unauthenticated("this key is not one of this fleet", "unknown_key", advice=_BAD_KEY)

    def _state(self, record: KeyRecord) -> str:
        if record.revoked is not None:
            return "revoked"
        return "expired" if record.expires is not None and self._clock() >= record.expires else "good"

    def _check_good(self, record: KeyRecord) -> None:
        match self._state(record):
            case "revoked":
                raise Unauthenticated(f"the key {record.name} was revoked", "revoked_key", advice=_BAD_KEY)
            case "expired":
                when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(record.expires))
                raise Unauthenticated(f"the key {record.name} expired on {when}", "expired_key", advice=_BAD_KEY)

    def _view(self, record: KeyRecord) -> KeyView:
        use = self._used(record)
        return KeyView(
            record.key_id,
            record.name,
            record.role,
            self._state(record),
            record.made,
            record.expires,
            record.requests_per_minute,
            record.tokens_per_day,
            use.last_used,
            use.tokens,
        )

    def _keep(self, records: Mapping[str, KeyRecord]) -> None:
        now = self._clock()
        kept = {digest: one for digest, one in records.items() if (_ended(one) or now) + _KEPT_SECONDS > now}
        write_private(self._file, json.dumps([asdict(one) for one in kept.values()], indent=1).encode())
        self._records = kept
        known = {one.key_id for one in kept.values()}
        self._use = {key_id: use for key_id, use in self._use.items() if key_id in known}


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _ended(record: KeyRecord) -> float | None:
    ends = [one for one in (record.revoked, record.expires) if one is not None]
    return min(ends) if ends else None


def _check(wish: NewKey) -> None:
    if not wish.name.isprintable() or not wish.name.strip() or len(wish.name.encode()) > LONGEST_NAME:
        raise InvalidInput(f"not a name: {wish.name[:80]!r}", advice=f"use 1 to {LONGEST_NAME} printable characters")
    if wish.role not in ROLES:
        raise InvalidInput(f"no role {wish.role[:80]!r}", advice=f"one of {', '.join(ROLES)}")
    if wish.life_seconds is not None and not 0 < wish.life_seconds < math.inf:
        raise InvalidInput(f"a key for {wish.life_seconds:g} s", advice="for example 90d")
    for what, most in (("requests a minute", wish.requests_per_minute), ("tokens a day", wish.tokens_per_day)):
        if most is not None and most < 1:
            raise InvalidInput(f"a budget of {most} {what}", advice="at least 1, or none for no limit")


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(file.read_bytes())
        return [dict(entry) for entry in entries]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise Corrupt(f"{file} cannot be read: {error}", advice="restore it from a backup, or remove it: then no key is good") from error


def _record(entry: Mapping[str, Any]) -> KeyRecord:
    try:
        return KeyRecord(**entry)
    except TypeError as error:
        raise Corrupt(f"a key that was kept cannot be read: {error}", advice="restore keys.json from a backup") from error
