"""Boards that belong to no fleet, in this process and on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from device.agent.enrolling import Enrollable
from protos.enrolment import Token


@asynccontextmanager
async def board(
    folder: Path,
    name: str = "gate-7",
    token: Token | None = None,
    bind: str = "127.0.0.1:0",
    returns: bytes | None = None,
    told: list[tuple[str, str]] | None = None,
) -> AsyncIterator[Enrollable]:
    """Without mDNS: multicast on no interface. `told` gets what it is told of its token."""
    found = [] if told is None else told

    def refused(why: str, advice: str) -> None:
        found.append((why, advice))

    where = ("127.0.0.1",)
    async with Enrollable(folder, name, "a test", bind, token=token, returns=returns, interfaces=where, refused=refused) as made:
        yield made
