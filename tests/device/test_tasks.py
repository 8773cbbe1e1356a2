"""The small shapes of concurrency."""

from __future__ import annotations

import asyncio
import threading

import pytest

from device.tasks import first_of, in_thread


async def test_the_first_ends_the_others() -> None:
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def short() -> None:
        await asyncio.sleep(0)

    await first_of(forever(), short(), forever())
    assert ended == ["cancelled"] * 2


async def test_what_the_first_raises_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        await first_of(asyncio.Event().wait(), fail())  # type: ignore[arg-type]


async def test_cancelled_it_cancels_and_waits_for_all() -> None:
    ended: list[str] = []
    started = asyncio.Event()

    async def forever() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("cancelled")

    task = asyncio.create_task(first_of(forever(), forever()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["cancelled"] * 2


async def test_a_thread_s_value_and_error_come_back() -> None:
    assert await in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)


async def test_cancelled_it_waits_for_the_thread() -> None:
    entered, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        go_on.wait(10)
        done.set()
        raise ValueError("nobody is told")

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(entered.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()
