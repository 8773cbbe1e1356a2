"""Who asks something of the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from protos.errors import Busy, Denied

Role: TypeAlias = Literal["viewer", "user", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Principal:
    """`name` is for logs and accounts; `role` is what rights follow from; `key_id` names the fleet's key that was shown, "" for none."""

    name: str
    role: Role | Literal["anyone"]
    key_id: str = ""


# Whoever reaches the coordinator on loopback, or shows the key of its home.
LOCAL_ADMIN = Principal("local", "admin")
# Whoever asks without a key: for what everybody may.
ANYONE = Principal("anyone", "anyone")
# What the fleet does without being asked.
COORDINATOR = Principal("coordinator", "admin")


class Unauthenticated(Denied):
    """No key, or one that is no good: HTTP tells it (401) from a right that is missing (403). `reason` is for programs."""

    def __init__(self, cause: str, reason: Literal["no_key", "unknown_key", "expired_key", "revoked_key"], *, advice: str = "") -> None:
        super().__init__(cause, advice=advice or "send the header Authorization: Bearer KEY")
        self.reason = reason


class OverBudget(Busy):
    """A key has used up what it was given for this minute, or for this day. `reason` is for programs."""

    def __init__(self, cause: str, reason: Literal["requests", "tokens"], *, advice: str, retry_after_seconds: float) -> None:
        super().__init__(cause, advice=advice, retry_after_seconds=retry_after_seconds)
        self.reason = reason
