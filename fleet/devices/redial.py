"""Dialling somebody again and again: the addresses where it was seen, and how long to wait between attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fleet.background import set_within
from fleet.devices.liveness import Liveness
from protos.errors import FleetError

ADDRESSES = 4  # remembered: several interfaces, a new lease


class Redial:
    """`run` it as a task."""

    def __init__(self, address: str, found_by: str, rules: Liveness) -> None:
        self._found: dict[str, str] = {address: found_by}  # address -> by whom, the next to try last
        self._rules = rules
        self._woken = asyncio.Event()
        self.address = address  # dialled now, or last

    @property
    def found_by(self) -> str:
        return self._found.get(self.address, "")

    def found(self, address: str, found_by: str) -> None:
        """It was seen there (again): an address to try next, at once if there is no connection now."""
        self._found.pop(address, None)
        self._found[address] = found_by
        while len(self._found) > ADDRESSES:
            del self._found[next(iter(self._found))]
        self._woken.set()

    async def run(
        self, session: Callable[[str], Awaitable[None]], lost: Callable[[FleetError], None], heard_at: Callable[[], float | None]
    ) -> None:
        """`session(address)` for ever; `lost` is told how each ended. One after which `heard_at` is what it was before has failed."""
        failures = 0
        while True:
            self._woken.clear()
            self.address = next(reversed(self._found))
            heard_before = heard_at()
            try:
                await session(self.address)
            except FleetError as error:
                lost(error)
            failures = failures + 1 if heard_at() == heard_before else 0
            if failures and self.address in self._found:  # another address has its turn
                self._found = {self.address: self._found.pop(self.address), **self._found}
            await set_within(self._woken, self._rules.wait_seconds(failures))
