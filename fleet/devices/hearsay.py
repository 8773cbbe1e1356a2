"""Addresses at which strangers say that somebody is: looked at within a budget, so that no flood makes us a source of connections.

An advert costs nothing to forge: of any number, at any address. So hosts have their turn one by one, however many names and ports are
said to be there, who has never been looked at has every second turn, and hosts of our own networks, of which there are not many, have
three of four, and their own room.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Generic, Self, TypeVar

from fleet.background import Background, set_within
from protos.errors import FleetError

K = TypeVar("K", bound=Hashable)

MOST_PLACES, MOST_FAR = 2048, 512
MOST_OF_A_HOST = 256  # beside others' places; simulated devices share one
MOST_CLAIMS = 8  # who is said to be at one place
_IDLE_SECONDS = 0.25


@dataclass(frozen=True)
class Budget:
    """Of looks that found nobody: those that found somebody cost nothing."""

    at_once: int = 16
    per_second: float = 16.0
    burst: float = 64.0
    first_wait_seconds: float = 1.0  # before the same place is looked at again, doubled each time
    longest_wait_seconds: float = 60.0
    patience_seconds: float = 2.0  # of one look; later ones have more
    longest_patience_seconds: float = 5.0


DEFAULT_BUDGET = Budget()


@dataclass
class _Place(Generic[K]):
    address: str
    claims: dict[K, None]
    failures: int = 0
    due: float = 0.0
    looking: bool = False
    problem: str = ""


@dataclass
class _Host(Generic[K]):
    near: bool
    places: dict[str, _Place[K]] = field(default_factory=dict)
    tried: int = 0  # the number of the look that was its last


@dataclass(frozen=True)
class Unproven(Generic[K]):
    """`claim` was said to be at `address`, and was not, because of this."""

    claim: K
    address: str
    problem: str


class Hearsay(Generic[K]):
    """An async context manager. `look(address, claims, seconds)` gives those of the claims that hold there, or raises FleetError."""

    def __init__(
        self,
        look: Callable[[str, tuple[K, ...], float], Awaitable[Collection[K]]],
        budget: Budget = DEFAULT_BUDGET,
        *,
        near: Callable[[str], bool] = lambda _host: True,
        clock: Callable[[], float] = time.monotonic,
        dice: random.Random | None = None,
    ) -> None:
        self._look = look
        self._budget = budget
        self._near = near
        self._clock = clock
        self._dice = dice or random.Random()  # nosec B311 # whose turn it is is no secret
        self._hosts: dict[str, _Host[K]] = {}
        self._addresses: dict[K, dict[str, None]] = {}  # of each claim
        self._places = {True: 0, False: 0}  # near, far
        self._tokens, self._counted_at = budget.burst, clock()
        self._numbers = count(1)
        self._news = asyncio.Event()
        self._background = Background()
        self.looks = 0

    async def __aenter__(self) -> Self:
        for n in range(self._budget.at_once):
            self._background.start(self._work(), f"look at strangers {n}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._background.__aexit__(kind, error, trace)

    def __len__(self) -> int:
        """Claims that nobody has proven."""
        return len(self._addresses)

    def __contains__(self, claim: object) -> bool:
        return claim in self._addresses

    def addresses(self, claim: K) -> tuple[str, ...]:
        """Where it is said to be."""
        return tuple(self._addresses.get(claim, ()))

    def unproven(self) -> Iterator[Unproven[K]]:
        """Of the places that were looked at."""
        for host in self._hosts.values():
            for place in host.places.values():
                if place.problem:
                    yield from (Unproven(claim, place.address, place.problem) for claim in place.claims)

    def heard(self, claim: K, addresses: Iterable[str]) -> None:
        """It is said to be at one of these, "host:port"; what was heard before stays."""
        for address in addresses:
            name = address.rpartition(":")[0]
            host = self._hosts.get(name)
            if host is None:
                host = self._hosts[name] = _Host(self._near(name))
            place = host.places.get(address)
            if place is None:
                place = host.places[address] = _Place(address, {})
                self._places[host.near] += 1
            else:  # said again: sooner, and yet not as often as somebody says so
                place.due = min(place.due, self._clock() + 5 * self._budget.first_wait_seconds)
            place.claims[claim] = None
            self._addresses.setdefault(claim, {})[address] = None
            if len(place.claims) > MOST_CLAIMS:
                self._unclaim(place, self._dice.choice(list(place.claims)))
            if len(host.places) > MOST_OF_A_HOST:
                self._drop_one_of(host)
            elif self._places[host.near] > (MOST_PLACES if host.near else MOST_FAR):
                alike = [one for one in self._hosts.values() if one.near == host.near]
                most = max(len(one.places) for one in alike)
                self._drop_one_of(self._dice.choice([one for one in alike if len(one.places) == most]))
        self._news.set()

    def forget(self, claim: K) -> None:
        """It has proven who it is, or has said goodbye."""
        for address in list(self._addresses.get(claim, ())):
            host = self._hosts[address.rpartition(":")[0]]
            self._unclaim(host.places[address], claim)

    def _unclaim(self, place: _Place[K], claim: K) -> None:
        del place.claims[claim]
        addresses = self._addresses[claim]
        del addresses[place.address]
        if not addresses:
            del self._addresses[claim]
        if not place.claims:
            name = place.address.rpartition(":")[0]
            host = self._hosts[name]
            self._places[host.near] -= 1
            del host.places[place.address]
            if not host.places:
                del self._hosts[name]

    def _drop_one_of(self, host: _Host[K]) -> None:
        """By lot, not the oldest: whoever floods must not be able to say which. One that failed goes first."""
        failed = [one for one in host.places.values() if one.failures and not one.looking]
        place = self._dice.choice(failed or list(host.places.values()))
        for claim in list(place.claims):
            self._unclaim(place, claim)

    async def _work(self) -> None:
        while True:
            place = self._next()
            if place is None:
                self._news.clear()
                await set_within(self._news, _IDLE_SECONDS if self._hosts else 3600.0)
                continue
            place.looking, claims = True, tuple(place.claims)
            self.looks += 1
            try:
                found = await self._look(place.address, claims, self._patience(place.failures))
                place.problem = "" if found else "somebody else answers there"
            except FleetError as error:
                found, place.problem = (), error.detail
            finally:
                place.looking = False
            wait_seconds = self._budget.first_wait_seconds * 2.0 ** min(place.failures, 20)
            if found:
                self._tokens = min(self._tokens + 1, self._budget.burst)
                wait_seconds = self._budget.longest_wait_seconds  # for the others who were said to be there
            else:
                place.failures += 1
            place.due = self._clock() + min(wait_seconds, self._budget.longest_wait_seconds)
            for claim in found:
                self.forget(claim)

    def _patience(self, failures: int) -> float:
        return self._budget.patience_seconds if failures == 0 else self._budget.longest_patience_seconds

    def _next(self) -> _Place[K] | None:
        """Whose turn it is, if there is something left of the budget."""
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._counted_at) * self._budget.per_second, self._budget.burst)
        self._counted_at = now
        if self._tokens < 1:
            return None
        ready = {name: due for name, host in self._hosts.items() if (due := [one for one in host.places.values() if _is_due(one, now)])}
        if not ready:
            return None
        number = next(self._numbers)
        alike = [name for name in ready if self._hosts[name].near == (number % 4 > 0)]
        ready = {name: ready[name] for name in alike or ready}
        new = [name for name in ready if self._hosts[name].tried == 0]
        seen = [name for name in ready if self._hosts[name].tried > 0]
        name = self._dice.choice(new) if new and (number // 4 % 2 or not seen) else min(seen, key=lambda one: self._hosts[one].tried)
        self._hosts[name].tried = number
        fresh = [one for one in ready[name] if one.failures == 0]
        tried = [one for one in ready[name] if one.failures > 0]
        self._tokens -= 1
        return self._dice.choice(fresh) if fresh and (number // 8 % 2 or not tried) else min(tried, key=lambda one: one.due)


def _is_due(place: _Place[K], now: float) -> bool:
    return not place.looking and place.due <= now
