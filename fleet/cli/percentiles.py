"""Percentiles of requests on the terminal: a table of the period, or lines of blocks over the time; and as rows for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from fleet.cli.history import spark_line, spark_width
from fleet.cli.output import count_text, figure, note, say, time_text
from fleet.cli.tables import Column, print_table
from fleet.telemetry.views import Percentiles

TITLES = {
    "queue_seconds": "queue s",
    "ttft_seconds": "TTFT s",
    "tpot_seconds": "s a token",
    "total_seconds": "whole s",
    "joules_per_token": "J/token",
}


def parse_percentiles(text: str) -> tuple[float, ...]:
    """Of "50,90,99.9". Raises typer.BadParameter."""
    try:
        found = tuple(float(part.strip().lstrip("p")) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 <= one <= 100 for one in found):
        raise typer.BadParameter(f"not percentiles: {text!r}; write for example 50,90,99")
    return found


def print_percentiles(found: Percentiles, *, by: str, over_time: bool) -> None:
    if not found.series:
        note("no request ended in that time")
        return
    if over_time:
        _print_lines(found)
        return
    names = [f"p{one:g}" for one in found.percentiles]
    columns = [Column(by, "names"), Column("figure", "names"), Column("requests", "figure"), *(Column(name, "figure") for name in names)]
    print_table(
        [*columns, Column("source")],
        [[one.key, TITLES[one.figure], f"{one.requests:,}", *map(figure, one.whole), one.source] for one in found.series],
    )


def percentile_rows(found: Percentiles, *, over_time: bool) -> Iterator[dict[str, Any]]:
    """One for each series and percentile, and each interval where it is over the time."""
    for one in found.series:
        fixed = {"key": one.key, "figure": one.figure, "source": one.source}
        for number, percentile in enumerate(found.percentiles):
            if not over_time:
                yield {**fixed, "requests": one.requests, "percentile": percentile, "value": one.whole[number]}
                continue
            for at, requests, value in zip(found.times, one.requests_each, one.values[number], strict=True):
                yield {"time": at, **fixed, "requests": requests, "percentile": percentile, "value": value}


def _print_lines(found: Percentiles) -> None:
    width = spark_width()
    for key in dict.fromkeys(one.key for one in found.series):
        mine = [one for one in found.series if one.key == key]
        say(f"{key}, {count_text(max(one.requests for one in mine), 'request')}")
        for one in mine:
            say(f"{TITLES[one.figure]}, {one.source}")
            for percentile, values in zip(found.percentiles, one.values, strict=True):
                say(spark_line(f"  p{percentile:g}", values, width))
        say()
    begin, end = found.times[0] - found.step_seconds, found.times[-1]
    say(f"from {time_text(begin, of_day='%H:%M:%S')} to {time_text(end, of_day='%H:%M:%S')}; {figure(found.step_seconds)} s each value")
