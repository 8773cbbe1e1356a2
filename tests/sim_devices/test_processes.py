from __future__ import annotations

import subprocess
import time

import psutil

from sim_devices import processes


def test_one_that_nobody_reaps_has_stopped_all_the_same() -> None:
    """As below the first process of many containers."""
    command = "sleep 300 & echo $!; exec sleep 300"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        start = time.monotonic()
        processes.stop([orphan], patience_seconds=60)
        assert time.monotonic() - start < 30
        assert orphan.status() == psutil.STATUS_ZOMBIE
        parent.kill()
    processes.stop([orphan], patience_seconds=60)  # again is no error
