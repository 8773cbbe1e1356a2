from __future__ import annotations

import subprocess
import sys
import time

import psutil

from sim_devices import processes

NEVER_REAPS = """
import subprocess, time
print(subprocess.Popen(["sleep", "300"]).pid, flush=True)
time.sleep(300)
"""


def test_one_that_nobody_reaps_has_stopped_all_the_same() -> None:
    """As below the first process of many containers."""
    with subprocess.Popen([sys.executable, "-c", NEVER_REAPS], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            left_alone = psutil.Process(int(parent.stdout.readline()))
            start = time.monotonic()
            processes.stop([left_alone], patience_seconds=60)
            assert time.monotonic() - start < 30
            assert left_alone.status() == psutil.STATUS_ZOMBIE
        finally:
            parent.kill()
    processes.stop([left_alone], patience_seconds=60)  # again is no error
