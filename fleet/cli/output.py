"""What people read: lines that fit a terminal, figures with units, JSON for machines."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
import textwrap
import time
from typing import Any, TextIO

from fleet.api.encode import plain
from fleet.cli.streams import silence
from fleet.text import is_text

NONE = "-"  # no figure: not measured, not known


def say(line: str = "", hang: int | None = None) -> None:
    """One line of the result, to stdout; on a terminal broken between words, what follows indented by `hang`, or beneath its beginning."""
    _print(line, sys.stdout, hang)


def note(line: str = "") -> None:
    """One line about the work, to stderr: stdout is for results. That nobody takes it ends no work."""
    try:
        _print(line, sys.stderr)
    except OSError:
        silence(sys.stderr)


def print_json(value: Any) -> None:
    """JSON is UTF-8: where stdout is of another encoding, and for what is no text, it has escapes."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False)
    if codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8" or not is_text(text):
        text = json.dumps(plain(value), indent=2)
    print(text, flush=True)  # noqa: T201


def figure(value: float | None) -> str:
    """Three significant digits, without an exponent where people would not want one; "-" for none."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        return f"{value:.2g}"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f}"


def time_text(seconds: float, *, of_day: str = "%H:%M") -> str:
    """A moment in unix seconds, in this machine's zone, which it names: "2026-11-29 23:45 CET"."""
    return time.strftime(f"%Y-%m-%d {of_day} %Z", time.localtime(seconds))


def count_text(count: int, noun: str) -> str:
    """ "1 device", "3 devices"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def in_order(name: str) -> tuple[tuple[str, int], ...]:
    """A key to sort names as people do: "dev-2" before "dev-10"."""
    return tuple((text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name))


def wrapped(line: str, columns: int, hang: int | None = None) -> str:
    """Broken between words, what follows indented by `hang`, or beneath its beginning; too long a word stays whole, to be copied."""
    indent = len(line) - len(line.lstrip(" -")) if hang is None else hang
    parts = [
        textwrap.fill(part, columns, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
        if len(part) > columns
        else part
        for part in line.split("\n")
    ]
    return "\n".join(parts)


def _print(line: str, stream: TextIO, hang: int | None = None) -> None:
    if stream.isatty():
        line = wrapped(line, os.get_terminal_size(stream.fileno()).columns or 80, hang)
    print(line, file=stream, flush=True)
