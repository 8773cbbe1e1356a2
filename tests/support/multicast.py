"""Real mDNS on loopback for tests, skipped by name where there is no multicast."""

from __future__ import annotations

import pytest

from protos.net.multicast import multicast_problem

LOOPBACK = "127.0.0.1"
needs_multicast = pytest.mark.skipif(multicast_problem(LOOPBACK) is not None, reason=f"no multicast on {LOOPBACK} here")
