"""The clock for how long something lasts."""

from __future__ import annotations

import time


def elapsed() -> float:
    """Seconds from some start on. Unlike time.monotonic, it counts the time in which the machine was suspended, where the system tells."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
