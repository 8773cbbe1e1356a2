"""Noticing that this machine's network has changed: an address, an interface, or hours that it slept through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from protos.elapsed import elapsed
from protos.net.interfaces import Interface, Survey, read_adapters, survey
from protos.net.kernel import told_by_kernel

PERIOD_SECONDS = 1.5  # where the kernel does not tell, and for sleeps; a look takes about 0.5 ms
SETTLE_SECONDS = 0.1  # one change is several messages of the kernel; and they make no more looks than this, however many they are
SLEPT_SECONDS = 3.0  # a look that is so late: the machine was suspended, or this process stopped


@dataclass(frozen=True)
class Change:
    """What is now. `woke`: the machine slept, so that what looks the same may be another network."""

    survey: Survey
    woke: bool = False


def change(before: Survey, after: Survey, late_seconds: float) -> Change | None:
    """What happened between two looks, the second `late_seconds` later than it was due; None: nothing."""
    woke = late_seconds > SLEPT_SECONDS
    return Change(after, woke) if woke or before != after else None


def look(asked: Sequence[str] | None) -> Survey:
    """`asked` as of `survey`. Blocks for about 0.5 ms."""
    try:
        return survey(read_adapters(), asked)
    except OSError as error:
        return Survey(problems=(f"the network cannot be looked at: {error.strerror or error}",))


async def changes(
    first: Survey,
    again: Callable[[], Survey],
    *,
    failed: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = elapsed,
) -> AsyncGenerator[Change, None]:
    """Every change from `first` on, as `again` sees it, for ever; and what is there now for as long as `failed()`, to be tried anew."""
    last, at = first, clock()
    with told_by_kernel() as told:
        told.set()  # what happened since `first`
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_SECONDS):
                    await told.wait()
            if told.is_set():
                await asyncio.sleep(SETTLE_SECONDS)
            told.clear()
            found = await asyncio.to_thread(again)
            now = clock()
            happened = change(last, found, now - at - PERIOD_SECONDS)
            if happened is not None or failed():
                yield happened or Change(found)
            last, at = found, clock()


class Responder(Protocol):
    """What of zeroconf's AsyncZeroconf is needed here."""

    async def async_update_interfaces(self, interfaces: list[str | int]) -> Any: ...


def as_zeroconf_wants(interfaces: Sequence[Interface]) -> list[str | int]:
    """IPv4 by address, IPv6 by the interface's number."""
    return [one.address if one.ip.version == 4 else one.index for one in interfaces]


async def follow(responder: Responder, before: Sequence[Interface], change: Change) -> None:
    """Have the responder speak where the change says, and no longer where it spoke `before`.

    zeroconf compares addresses. What has kept its address and is another interface all the same, or may be one after a sleep, is therefore
    left first and joined again.
    """
    kept = [] if change.woke else [one for one in before if one in change.survey.usable]
    if len(kept) < len(before):
        await responder.async_update_interfaces(as_zeroconf_wants(kept))
    if len(kept) < len(change.survey.usable):
        await responder.async_update_interfaces(as_zeroconf_wants(change.survey.usable))
