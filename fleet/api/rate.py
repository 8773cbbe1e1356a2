"""How often strangers may ask."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from protos.errors import Busy

MOST_ADDRESSES = 4096


class Rates:
    """So many requests a minute of one address, and of all together. Of addresses the last 4096 are remembered."""

    def __init__(self, of_one: int, of_all: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._of_one, self._of_all = of_one, of_all
        self._clock = clock
        self._minute = -1
        self._all = 0
        self._counts: OrderedDict[str, int] = OrderedDict()

    def count(self, address: str) -> None:
        """Raises Busy."""
        now = self._clock()
        if int(now // 60) != self._minute:
            self._minute, self._all = int(now // 60), 0
            self._counts.clear()
        seen = self._counts.get(address, 0)
        if seen >= self._of_one or self._all >= self._of_all:
            raise Busy("too many ask to join", advice="try again in a minute", retry_after_seconds=60 - now % 60)
        self._all += 1
        self._counts[address] = seen + 1
        self._counts.move_to_end(address)
        if len(self._counts) > MOST_ADDRESSES:
            self._counts.popitem(last=False)
