"""Lines of a log that strangers cause: one in a while, which says how many were left out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

SECONDS = 10.0


class Sparing:
    """One kind of line of `log`, at most every `seconds`. What is left out goes to the debug level."""

    def __init__(self, log: logging.Logger, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._seconds = seconds
        self._clock = clock
        self._next = 0.0
        self._left_out = 0

    def __call__(self, level: int, text: str, *values: object, error: BaseException | None = None) -> None:
        """`error`: its traceback follows."""
        now = self._clock()
        if now < self._next:
            self._left_out += 1
            self._log.debug(text, *values, exc_info=error)
            return
        more = f" ({self._left_out} more like this since the last line)" if self._left_out else ""
        self._next, self._left_out = now + self._seconds, 0
        self._log.log(level, f"{text}%s", *values, more, exc_info=error)
