"""A program for tests: runs a module as if the machine were suspended for an hour at each SIGUSR1, which one clock alone tells."""

from __future__ import annotations

import runpy
import signal
import sys
import time

slept_seconds = 0.0
_real = time.clock_gettime


def clock_gettime(clock: int) -> float:
    """Of Linux's clocks this one alone goes on while the machine sleeps."""
    return _real(clock) + (slept_seconds if clock == time.CLOCK_BOOTTIME else 0.0)


def sleep(*_signal: object) -> None:
    global slept_seconds
    slept_seconds += 3600.0


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, sleep)
    time.clock_gettime = clock_gettime
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
