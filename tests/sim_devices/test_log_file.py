"""The log of a simulated device does not grow for ever, and what goes past the logging module is in it too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sim_devices import log_file

WRITES = """
import logging, os, sys
from pathlib import Path
from sim_devices import log_file
handler = log_file.BoundedLog(Path(sys.argv[1]), 20_000)
logging.basicConfig(handlers=[handler])
for n in range(3000):
    logging.getLogger("x").warning("line %d", n)
os.write(2, b"said by native code\\n")
"""


def test_a_long_log_begins_anew_and_keeps_what_was_before(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with path.open("ab") as log:
        subprocess.run([sys.executable, "-c", WRITES, str(path)], stderr=log, check=True, timeout=30)
    now, before = path.read_text().splitlines(), (tmp_path / "log.txt.1").read_text().splitlines()
    assert path.stat().st_size <= 20_100
    assert now[-2:] == ["WARNING:x:line 2999", "said by native code"]
    assert [*before, *now][-1000:-1] == [f"WARNING:x:line {n}" for n in range(2001, 3000)]  # nothing is missing between the two
    assert log_file.MOST_BYTES < 8 << 20


def test_a_stream_that_is_no_file_or_another_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("somebody else's\n")
    done = subprocess.run([sys.executable, "-c", WRITES, str(path)], capture_output=True, check=True, text=True, timeout=30)
    assert done.stderr.count("\n") == 3001
    with (tmp_path / "other").open("ab") as other:
        subprocess.run([sys.executable, "-c", WRITES, str(path)], stderr=other, check=True, timeout=30)
    assert (tmp_path / "other").read_text().count("\n") == 3001
    assert path.read_text() == "somebody else's\n"
