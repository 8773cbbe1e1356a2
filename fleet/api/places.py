"""The places for connections to the HTTP server: who has one, and who makes way when all are taken."""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Place:
    """Of one connection, from `key`. `hang_up` ends it."""

    key: str
    hang_up: Callable[[], None]


class Places:
    """At most `of_all`, and `of_one` of one address beyond loopback (of IPv6 one network of 64 bits: one machine chooses of those).

    Where there are as many, one that has asked nothing yet makes way for the next: of the address that has most of these, the one that has
    said nothing for longest. Who only holds connections keeps nobody out by that; who has asked keeps its place.
    """

    def __init__(self, of_all: int, of_one: int) -> None:
        self._of_all = of_all
        self._of_one = of_one
        self._by_address: Counter[str] = Counter()
        self._silent: dict[str, dict[Place, None]] = {}  # by address, the oldest first

    @property
    def taken(self) -> int:
        return self._by_address.total()

    def take(self, host: str, hang_up: Callable[[], None]) -> Place | None:
        """None: there are too many. `leave` it at the end."""
        key, local = _key(host)
        if not local and self._by_address[key] >= self._of_one and not self._makes_way(self._silent.get(key, {})):
            _log.debug("too many connections: %s is not let in", host)
            return None
        if self.taken >= self._of_all and not self._makes_way(max(self._silent.values(), key=len, default={})):
            _log.debug("too many connections: %s is not let in", host)
            return None
        place = Place(key, hang_up)
        self._by_address[key] += 1
        self._silent.setdefault(key, {})[place] = None
        return place

    def asked(self, place: Place) -> bool:
        """Its first request is there. Whether it had been silent."""
        silent = self._silent.get(place.key, {})
        if place not in silent:
            return False
        del silent[place]
        if not silent:
            del self._silent[place.key]
        return True

    def leave(self, place: Place) -> None:
        """Once for each place."""
        self.asked(place)
        self._by_address[place.key] -= 1
        if not self._by_address[place.key]:
            del self._by_address[place.key]

    def _makes_way(self, silent: dict[Place, None]) -> bool:
        oldest = next(iter(silent), None)
        if oldest is None:
            return False
        oldest.hang_up()
        return True


def _key(host: str) -> tuple[str, bool]:
    """What a connection is counted by, and whether it comes from this machine."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0].removeprefix("::ffff:"))
    except ValueError:
        return host, False
    if address.version == 6 and not address.is_loopback:
        return str(ipaddress.ip_network((address, 64), strict=False)), False
    return str(address), address.is_loopback
