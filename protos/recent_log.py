"""The last lines of this program's log, kept in memory for whoever looks for what is wrong from another machine."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

MOST_LINES = 1000
MOST_CHARACTERS = 500  # of a line's text


@dataclass(frozen=True)
class LogLine:
    """`number` counts the lines since the program started, from 1; `at` in unix seconds by its machine's clock."""

    number: int
    at: float
    level: str
    logger: str
    text: str


class RecentLog(logging.Handler):
    """Keeps MOST_LINES lines. What does not print is a space: others' words are in a log, and a terminal would obey them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[LogLine] = deque(maxlen=MOST_LINES)
        self._reading = threading.Lock()
        self._count = 0
        self.boot_id = secrets.token_hex(8)  # of this start of the program, within which lines are counted

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # a message that does not fit its arguments: logging tells of it, by its other handlers
            text = str(record.msg)
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        printable = "".join(character if character.isprintable() else " " for character in text[:MOST_CHARACTERS])
        with self._reading:
            self._count += 1
            self._lines.append(LogLine(self._count, record.created, record.levelname, record.name, printable))

    def lines(self, after: int = 0, most: int = MOST_LINES) -> Sequence[LogLine]:
        """The last `most` of those with a number above `after`, oldest first."""
        with self._reading:
            newest = (line for line in reversed(self._lines) if line.number > after)
            return tuple(islice(newest, most))[::-1]


@cache
def recent_log() -> RecentLog:
    """That of this process. From the first call on it has whatever is logged, from INFO on, where the root logger lets it pass."""
    log = RecentLog()
    logging.getLogger().addHandler(log)
    return log
