"""A history on the terminal: a sparkline for each figure; or as lines of CSV."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from fleet.api.encode import plain
from fleet.cli.output import NONE, count_text, figure, note, say, time_text
from fleet.cli.sparklines import blocks_of_stdout, spark
from fleet.telemetry.views import History, HistorySeries

# (title, field, factor)
FIGURES = (
    ("W", "watts", 1.0),
    ("tokens/s", "tokens_per_second", 1.0),
    ("J/token", "joules_per_token", 1.0),
    ("busy %", "busy_share", 100.0),
    ("°C", "temperature_celsius", 1.0),
    ("memory MiB", "memory_bytes", 1 / (1 << 20)),
)
_LABEL, _NUMBERS = 11, 34  # columns beside the line


def print_history(history: History) -> None:
    if not history.series:
        note("no device was heard of in that time")
        return
    width = spark_width()
    for series in history.series:
        say(_title(series))
        say(f"{'':{_LABEL}}{'':{min(width, len(history.times))}}{'least':>10}{'mean':>11}{'most':>11}")
        for title, name, factor in FIGURES:
            values = [None if value is None else factor * value for value in getattr(series, name)]
            if any(value is not None for value in values):
                say(spark_line(title, values, width))
        say()
    begin, end = history.times[0] - history.step_seconds, history.times[-1]
    say(f"from {time_text(begin, of_day='%H:%M:%S')} to {time_text(end, of_day='%H:%M:%S')}; {figure(history.step_seconds)} s each value")


def print_csv(rows: Iterable[dict[str, Any]]) -> None:
    """With a line of names first; nothing at all where there is no row."""
    found = list(rows)
    if found:
        writer = csv.DictWriter(sys.stdout, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def history_rows(history: History) -> list[dict[str, Any]]:
    """One for each interval and series."""
    rows = []
    for series in history.series:
        fixed = {name: value for name, value in plain(series).items() if not isinstance(value, list | tuple)}
        columns = {name: value for name, value in plain(series).items() if isinstance(value, list | tuple)}
        for number, at in enumerate(history.times):
            rows.append({"time": at, **fixed, **{name: column[number] for name, column in columns.items()}})
    return rows


def spark_width() -> int:
    """Of a line's blocks, in this terminal."""
    return max(10, shutil.get_terminal_size((80, 24)).columns - _LABEL - _NUMBERS)


def _title(series: HistorySeries) -> str:
    most = max(series.devices, default=0)
    devices = "" if series.device_id else f" of {count_text(most, 'hollow device' if series.hollow else 'device')}"
    return f"{series.key}{devices}, {series.source}"


def spark_line(title: str, values: Sequence[float | None], width: int) -> str:
    """And the least, the mean and the greatest."""
    known = [value for value in values if value is not None]
    numbers = (figure(min(known)), figure(sum(known) / len(known)), figure(max(known))) if known else (NONE,) * 3
    return f"{title:{_LABEL}}{spark(values, width, blocks=blocks_of_stdout())}" + "".join(f"{number:>11}" for number in numbers)
