"""What the agent notes about itself in its folder, for whoever sits before the board: `glmfleet doctor` there has no other way to ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "agent.json"
PERIOD_SECONDS, _LOOK_SECONDS = 20.0, 2.0


@dataclass(frozen=True)
class HeardFrom:
    """Somebody who asked for devices by mDNS. Times in unix seconds."""

    interface: str
    sender: str
    at: float


@dataclass(frozen=True)
class AgentStatus:
    """`coordinator_at`: when a coordinator was connected last; 0: never since the agent started."""

    pid: int
    name: str
    address: str
    version: str
    at: float  # it was written
    coordinator_at: float
    listens: bool  # to mDNS
    heard: tuple[HeardFrom, ...]
    storage_problem: str
    memory_promised_bytes: int  # to models that are still to come
    memory_available_bytes: int | None


def read_status(folder: Path) -> AgentStatus | None:
    """None where no agent has written one, or another version of it."""
    try:
        plain = json.loads((folder / FILE).read_bytes())
        return AgentStatus(**{**plain, "heard": tuple(HeardFrom(**one) for one in plain["heard"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def keep_status(folder: Path, now: Callable[[], AgentStatus]) -> None:
    """Write it each 20 s, and soon when somebody is heard for the first time; removed at the end.

    A disk that takes nothing is told of elsewhere.
    """
    written: AgentStatus | None = None
    try:
        while True:
            status = now()
            if written is None or _is_news(written, status):
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(_write, folder, status)
                written = status
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        with contextlib.suppress(OSError):
            (folder / FILE).unlink(missing_ok=True)


def _is_news(written: AgentStatus, now: AgentStatus) -> bool:
    """Not each time that somebody asks or a coordinator is heard: boards have disks that wear out."""
    first = bool(now.coordinator_at) and not written.coordinator_at
    return first or len(now.heard) != len(written.heard) or abs(now.at - written.at) >= PERIOD_SECONDS


def _write(folder: Path, status: AgentStatus) -> None:
    """Not down to the disk: after a power cut it is of no use."""
    part = folder / f".{FILE}.{os.getpid()}"
    part.write_text(json.dumps(asdict(status)))
    part.replace(folder / FILE)
