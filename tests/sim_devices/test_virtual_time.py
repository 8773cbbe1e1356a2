"""A clock that jumps: hours in no time, in the order of the timers, whatever is done between them."""

from __future__ import annotations

import asyncio
import time

import pytest

from sim_devices.virtual_time import NothingLeft, run_virtual


def test_a_day_passes_at_once_and_in_order() -> None:
    async def main() -> list[tuple[float, str]]:
        now = asyncio.get_running_loop().time
        seen: list[tuple[float, str]] = []

        async def every(name: str, seconds: float, times: int) -> None:
            for _ in range(times):
                await asyncio.sleep(seconds)
                seen.append((now(), name))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(every("hour", 3600, 24))
            tasks.create_task(every("half", 1800, 3))
        return seen

    start = time.perf_counter()
    seen = run_virtual(main())
    assert time.perf_counter() - start < 5
    assert seen[:4] == [(1800, "half"), (3600, "hour"), (3600, "half"), (5400, "half")]
    assert seen[-1] == (86400, "hour")


def test_work_in_threads_takes_no_time_and_its_errors_arrive() -> None:
    async def main() -> tuple[float, int]:
        before = asyncio.get_running_loop().time()
        value = await asyncio.to_thread(lambda: time.sleep(0.02) or 7)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        return asyncio.get_running_loop().time() - before, value

    assert run_virtual(main()) == (0.0, 7)


def test_deadlines_are_of_the_virtual_clock() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3 * 24 * 3600):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(3 * 24 * 3600)


def test_waiting_for_nothing_is_an_error_not_a_hang() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(NothingLeft):
        run_virtual(main())
