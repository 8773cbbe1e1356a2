"""The coordinator as a process of its own, as a user starts it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fleet.home import Home

START_SECONDS = 60.0


@contextmanager
def serving(home: Home) -> Iterator[None]:
    """`glmfleet serve`, ready. Raises SystemExit when it does not start."""
    command = [sys.executable, "-m", "fleet.cli", "serve", "--port", "0", "--home", str(home.path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.perf_counter() + START_SECONDS
        while home.running_coordinator() is None:
            if process.poll() is not None or time.perf_counter() > deadline:
                raise SystemExit("the coordinator did not start")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
