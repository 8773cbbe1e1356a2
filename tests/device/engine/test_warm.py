"""The warm-up takes what the library keeps, once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from device import memory

# In a process of its own: here a session was opened long ago.
SCRIPT = """
from device.engine.warm import warm_up
from device.memory import resident_bytes
before = resident_bytes()
warm_up()
first = resident_bytes()
for _ in range(5):
    warm_up()
print(first - before, resident_bytes() - first)
"""


@pytest.mark.skipif(memory.held_bytes() is None, reason="nothing tells what a process holds here")
def test_the_first_session_takes_what_is_kept_and_the_next_take_nothing() -> None:
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60).stdout
    first, later = map(int, told.split())
    assert first > 5 << 20
    assert later < first / 4
