"""Interfaces that take part in multicast, and those that do not."""

from __future__ import annotations

import pytest

from protos.net.multicast import multicast_problem
from tests.support.multicast import LOOPBACK, needs_multicast


@needs_multicast
def test_loopback_will_do() -> None:
    assert multicast_problem(LOOPBACK) is None


@pytest.mark.parametrize("address", ["192.0.2.77", "nonsense"])
def test_an_interface_that_refuses_says_so(address: str) -> None:
    problem = multicast_problem(address)
    assert problem is not None
    assert address in problem
    assert "\n" not in problem
