"""Progress of long work: bars on a terminal, now and then a plain line elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn

Report = Callable[[str, int, int], None]  # (what, done, total), called as often as one likes

LINE_EVERY_SECONDS = 5.0


@contextmanager
def progress(*, of_bytes: bool) -> Iterator[Report]:
    """A function to report with: the stream decides how it looks."""
    if sys.stderr.isatty():
        with _bars(of_bytes) as report:
            yield report
    else:
        yield PlainLines(sys.stderr, time.monotonic)


class PlainLines:
    """A line when a piece of work starts, each five seconds while it goes on, and when it is done."""

    def __init__(self, stream: TextIO, now: Callable[[], float]) -> None:
        self._stream = stream
        self._now = now
        self._told: dict[str, float] = {}
        self._done: set[str] = set()

    def __call__(self, what: str, done: int, total: int) -> None:
        finished = done >= total
        due = what not in self._told or self._now() - self._told[what] >= LINE_EVERY_SECONDS
        if what in self._done or not (due or finished):
            return
        self._told[what] = self._now()
        if finished:
            self._done.add(what)
        percent = 100 if total <= 0 else 100 * done // total
        print(f"{what}: {percent} %", file=self._stream, flush=True)


@contextmanager
def _bars(of_bytes: bool) -> Iterator[Report]:
    amount: ProgressColumn = DownloadColumn(binary_units=True) if of_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), amount, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report
