"""Reaching somebody again and again: at every address where it may be, with growing waits between the attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from fleet.background import set_within
from fleet.devices.addresses import Addresses
from fleet.devices.liveness import Liveness
from protos.errors import Denied, FleetError, InvalidInput, TimedOut, Unavailable
from protos.link_failure import LinkFailure
from protos.net.addresses import dialable
from protos.net.race import Closable, Unreached, race

R = TypeVar("R", bound=Closable)

_BREATH_SECONDS, _LONGEST_BREATH_SECONDS = 0.05, 2.0  # however often adverts wake us; longer, the longer it was not to be found
_ASK_DOCTOR = "glmfleet doctor"


class Redial:
    """`run` it as a task."""

    def __init__(self, addresses: tuple[str, ...], found_by: str, rules: Liveness, proven: Callable[[str], None]) -> None:
        """`proven` is told each address where it has proven to be."""
        self._proven = proven
        self._book = Addresses().heard(addresses, found_by)
        self._rules = rules
        self._woken = asyncio.Event()
        self._doubt: Callable[[], None] | None = None  # tells the session that stands
        self._current = ""  # where it answers, or answered last
        self.unreached = False  # it was dialled, and was nowhere

    @property
    def address(self) -> str:
        """Where it answers, or answered last; of one that never did the likeliest."""
        return self._current or next(iter(self._book.to_try), "")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others may reach it, the likeliest first: they have no part in our zones."""
        return self._book.to_try

    @property
    def found_by(self) -> str:
        return self._book.found_by(self.address)

    def found(self, addresses: tuple[str, ...], found_by: str) -> None:
        """It was seen there (again): tried at once if there is no connection now; one that stands has to show that it does."""
        new = set(addresses) - set(self._book.to_try)
        self._book = self._book.heard(addresses, found_by)
        self._woken.set()
        if new:
            self.doubt()

    def doubt(self) -> None:
        """Something happened on the network: try at once if there is no connection, and look closely at one that stands."""
        self._woken.set()
        if self._doubt is not None:
            self._doubt()

    @contextmanager
    def doubted_by(self, hurry: Callable[[], None]) -> Iterator[None]:
        """While inside, `hurry` is called when there is reason to doubt the connection."""
        self._doubt = hurry
        try:
            yield
        finally:
            self._doubt = None

    async def run(
        self,
        reach: Callable[[str], Awaitable[R]],
        session: Callable[[R], Awaitable[None]],
        lost: Callable[[FleetError], None],
        heard_at: Callable[[], float | None],
    ) -> None:
        """For ever: `reach` it, by whichever address it proves to be at, and hold the `session`.

        `lost` is told how each ended. One after which `heard_at` is what it was before has failed.
        """
        failures = 0
        while True:
            self._woken.clear()
            heard_before = heard_at()
            try:
                self._current, reached = await race(dialable(self._book.to_try), reach)
            except Unreached as unreached:
                self.unreached = True
                self._book = self._book.failed(unreached.errors)
                lost(unreached.as_one(explained))
            else:
                self.unreached = False
                self._book = self._book.worked(self._current)
                self._proven(self._current)
                try:
                    await session(reached)
                except FleetError as error:
                    if heard_at() == heard_before:
                        self._book = self._book.failed({self._current: error})
                    lost(explained(error, self._current))
                finally:
                    await reached.close()
            failures = failures + 1 if heard_at() == heard_before else 0
            await asyncio.sleep(min(max(_BREATH_SECONDS, self._rules.wait_seconds(failures) if failures else 0.0), _LONGEST_BREATH_SECONDS))
            await set_within(self._woken, self._rules.wait_seconds(failures))


def explained(error: FleetError, address: str) -> FleetError:
    """Why there is no connection to `address`, without the device's name: it is shown beside the device."""
    match error.link_failure:
        case LinkFailure.ANOTHER_MEMBER:
            return Denied(f"another device answers at {address}")
        case LinkFailure.ANOTHER_AUTHORITY:
            return Denied(f"TLS with {address} failed: another fleet's device answers there", advice=_ASK_DOCTOR)
        case LinkFailure.NOT_VALID_NOW:
            return Denied(f"TLS with {address} failed: its certificate has expired, or is not valid yet", advice=_ASK_DOCTOR)
        case LinkFailure.TLS:
            return Denied(f"TLS with {address} failed: is it a device, and not --insecure?", advice=_ASK_DOCTOR)
        case LinkFailure.REFUSED:
            return Unavailable(f"nobody listens at {address}")
        case LinkFailure.UNREACHABLE:
            return Unavailable(f"this machine has no way to {address}", advice=_ASK_DOCTOR)
        case LinkFailure.UNRESOLVED:
            return Unavailable(f"no address is known for the name {address}", advice=_ASK_DOCTOR)
    if isinstance(error, TimedOut):
        return TimedOut(f"{address} does not answer", advice=error.advice)
    if isinstance(error, InvalidInput):
        return InvalidInput(f"{address}: {error.cause}")
    return type(error)(" ".join(error.cause.split())[:200], advice=error.advice)
