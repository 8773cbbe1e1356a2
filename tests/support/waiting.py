"""Waiting in tests for what happens elsewhere, without guessing how long it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol


async def wait_until(predicate: Callable[[], object], timeout_seconds: float = 10.0) -> None:
    """Returns as soon as `predicate()` is true; fails the test when it is not within the time."""
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    while not predicate():
        assert asyncio.get_running_loop().time() < deadline, f"not within {timeout_seconds:g} s: {predicate}"
        await asyncio.sleep(0.01)


class WithState(Protocol):
    @property
    def state(self) -> str: ...


async def wait_online(devices: Callable[[], Sequence[WithState]], count: int, timeout_seconds: float = 10.0) -> None:
    """Until `count` of the devices that are known are online: of `registry.records` or `coordinator.devices`."""
    await wait_until(lambda: sum(device.state == "online" for device in devices()) >= count, timeout_seconds)
