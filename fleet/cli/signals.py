"""Ctrl-C, SIGTERM and a closed terminal, for work that starts processes: held while one is being started, and heard once only."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fleet.cli.output import note
from fleet.cli.streams import silence

_HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """While inside, SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP SystemExit, the first time.

    Later ones are ignored: what the first set going is the clean-up, and nothing may cut that short.
    """

    def __init__(self) -> None:
        self._holds = 0
        self._pending: int | None = None
        self._deaf = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        # One that is ignored from outside stays so: `nohup` means that.
        heard = [number for number in _HEARD if signal.getsignal(number) is not signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._on_signal) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        """From now on."""
        self._deaf = True

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes inside is raised at the end: a process is never started without being noted down."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if self._pending is not None and not self._holds:
            self._raise(self._pending)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            # The terminal is gone: what the clean-up says must not be what ends it. Also when it comes during the clean-up of another.
            silence(sys.stdout)
            silence(sys.stderr)
        if self._deaf:
            return
        if self._holds:
            if self._pending is None:
                note("\nstopping ...")
            self._pending = number
        else:
            self._raise(number)

    def _raise(self, number: int) -> None:
        self._deaf = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
