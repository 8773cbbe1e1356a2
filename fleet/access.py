"""What the API and the command show of keys and of the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fleet.principal import Role


@dataclass(frozen=True)
class NewKey:
    """A key that is wished for. None: it lasts for ever, or has no such budget."""

    name: str
    role: Role
    life_seconds: float | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True)
class KeyView:
    """A key of the API. `key` is told once, when it is made; times are unix seconds."""

    key_id: str
    name: str
    role: Role
    state: str  # "good", "expired", "revoked"
    made: float
    expires: float | None
    requests_per_minute: int | None
    tokens_per_day: int | None
    last_used: float | None
    tokens_today: int
    key: str = ""


@dataclass(frozen=True)
class AuditEntry:
    """A line of the audit log. A change has two: "begun", and how it ended, which names the first in `of`."""

    sequence: int
    time: float  # unix seconds
    who: str
    role: str
    key_id: str
    call: str
    outcome: str  # "begun"; "done", "failed", "broken off"; "refused"
    arguments: Mapping[str, object] = field(default_factory=dict)
    of: int | None = None
    before: str = ""
    after: str = ""
    detail: str = ""


@dataclass(frozen=True)
class AuditVerdict:
    """`problem`: the first line that is not as it was written, "" when all are. `restarts`: where the log went on without its head."""

    lines: int
    problem: str
    restarts: tuple[int, ...] = ()
