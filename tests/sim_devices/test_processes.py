from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from pathlib import Path

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


def test_what_it_held_is_free_when_it_has_stopped(tmp_path: Path) -> None:
    """A process is a zombie as soon as its first thread has ended; the others hold its files and memory for a little longer."""
    program = f"""
import fcntl, threading, time
file = open({str(tmp_path / "lock")!r}, "w")
fcntl.flock(file, fcntl.LOCK_EX)
memory = bytearray(200 << 20)
for _ in range(8):
    threading.Thread(target=time.sleep, args=(300,), daemon=True).start()
print("up", flush=True)
time.sleep(300)
"""
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            processes.stop([psutil.Process(child.pid)], patience_seconds=60)
            with (tmp_path / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
