"""The warm-up takes what the libraries keep, once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from device import memory

# In a process of its own: here a session was opened long ago.
SCRIPT = """
import numpy as np
from device.engine.warm import warm_up
from device.pipeline.sampler import sample
from protos.sampling import Sampling
from device.memory import resident_bytes
before = resident_bytes()
warm_up()
first = resident_bytes()
for _ in range(5):
    warm_up()
again = resident_bytes()
sample(np.ones(64, np.float32), Sampling(temperature=1.0), 0)
print(first - before, again - first, resident_bytes() - again)
"""


@pytest.mark.skipif(memory.held_bytes() is None, reason="nothing tells what a process holds here")
def test_the_first_session_and_draw_take_what_is_kept_and_the_next_take_nothing() -> None:
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60).stdout
    first, later, sampled = map(int, told.split())
    assert first > 5 << 20
    assert later < first / 4
    assert sampled < 1 << 20
