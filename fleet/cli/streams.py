"""The command's standard streams: there whatever the caller closed, and able to show any text on any terminal."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from fleet.text import is_text
from protos.errors import InvalidInput, NoSpace, Unavailable


def prepare() -> None:
    """Once, before anything is read or shown.

    One that the caller closed (`>&-`) leads nowhere: else Python has no stream at all, and the next file that is opened gets its number,
    here and in programs that are started. What a terminal of another encoding cannot show is shown escaped.
    """
    closed = sys.stdout is None
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: those below are open by now
        if getattr(sys, name) is None:  # the number may be another file's already
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115 (for the whole run)
    if isinstance(sys.stdout, io.TextIOWrapper) and not closed:
        binary = _StandardOutput(io.FileIO(sys.stdout.fileno(), "w", closefd=False))
        sys.stdout = io.TextIOWrapper(binary, sys.stdout.encoding, "backslashreplace", line_buffering=sys.stdout.line_buffering)


def silence(stream: TextIO) -> None:
    """What is still to be written goes nowhere: nobody takes it, and the last flush must not say so again."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class _StandardOutput(io.BufferedWriter):
    """Tells a full disk behind `>` from all other errors of the system, once. A reader that left stays a BrokenPipeError.

    The buffer and not the file below it, whose `write` Ctrl-C could leave when the bytes are out and are not counted yet: they came twice.
    """

    def write(self, data: Any, /) -> int:
        with self._told():
            return super().write(data)

    def flush(self) -> None:
        with self._told():
            super().flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # what is written at the very end must not fail as well
            kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else Unavailable
            raise kind(f"standard output takes no more: {error.strerror}", advice="send it elsewhere, or make room there") from error


def read_all() -> str:
    """Standard input to its end. Raises InvalidInput when it is not text."""
    return _text_of(sys.stdin.read)


def read_line(prompt: str) -> str:
    """A line of standard input. Raises InvalidInput when it is not text, EOFError at the end."""
    return _text_of(lambda: input(prompt))


def _text_of(read: Callable[[], str]) -> str:
    try:
        words = read()
    except UnicodeDecodeError:
        words = "\udcff"  # any that is no text: what came cannot be told
    if not is_text(words):
        encoding = getattr(sys.stdin, "encoding", "utf-8").upper()
        raise InvalidInput(f"standard input is not text in {encoding}", advice=f"convert it: iconv -f latin1 -t {encoding}")
    return words
