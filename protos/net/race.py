"""Reaching somebody who may be at any of several addresses: all are tried, and the first where it is really they wins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from protos.errors import FleetError, TemporaryError, Unavailable

STAGGER_SECONDS = 0.25  # RFC 8305 section 5: an address has so long before the next is tried beside it

TOLD = 4  # reasons, of so many addresses


class Closable(Protocol):
    async def close(self) -> None: ...


R = TypeVar("R", bound=Closable)


class Unreached(Exception):
    """Nobody answered as they should: why, by address."""

    def __init__(self, errors: dict[str, FleetError]) -> None:
        super().__init__("; ".join(f"{address}: {error.detail}" for address, error in errors.items()))
        self.errors = errors

    def as_one(self, explain: Callable[[FleetError, str], FleetError]) -> FleetError:
        """What `explain(error, address)` makes of each, in one.

        It is temporary when one of them is: a device that is away is away, whoever else has got one of its addresses.
        """
        told = [explain(error, address) for address, error in self.errors.items()]
        if len(told) == 1:
            return told[0]
        telling = next((one for one in told if isinstance(one, TemporaryError)), told[0])
        causes = list(dict.fromkeys(one.cause for one in told))
        if len(causes) > TOLD:
            causes[TOLD:] = [f"and {len(causes) - TOLD} more addresses"]
        return type(telling)("; ".join(causes), advice=telling.advice, link_failure=telling.link_failure)


async def race(addresses: Sequence[str], reach: Callable[[str], Awaitable[R]]) -> tuple[str, R]:
    """(address, what `reach` of it gave) of the first that is reached; what comes second is closed.

    `reach` proves who answers, and raises FleetError. The next address is tried when one has failed, or has not answered in the time.
    Raises Unreached.
    """
    if len(addresses) == 1:
        try:
            return addresses[0], await reach(addresses[0])
        except FleetError as error:
            raise Unreached({addresses[0]: error}) from error
    waiting = list(addresses)
    running: dict[asyncio.Future[R], str] = {}
    errors: dict[str, FleetError] = {}
    try:
        while waiting or running:
            if waiting:
                address = waiting.pop(0)
                running[asyncio.ensure_future(reach(address))] = address
            done, _ = await asyncio.wait(running, timeout=STAGGER_SECONDS if waiting else None, return_when=asyncio.FIRST_COMPLETED)
            for task in [one for one in running if one in done]:
                address = running.pop(task)
                try:
                    reached = task.result()
                except FleetError as error:
                    errors[address] = error
                else:
                    return address, reached
    finally:
        await _give_up(running)
    if not errors:
        raise Unreached({"": Unavailable("no address of it is known")})
    raise Unreached({address: errors[address] for address in addresses})


async def _give_up(running: dict[asyncio.Future[R], str]) -> None:
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for task in running:
        if not task.cancelled() and task.exception() is None:
            await task.result().close()
