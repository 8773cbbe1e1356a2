from __future__ import annotations

import asyncio

import pytest

from fleet.background import Background, end, set_within, together
from protos.errors import NotFound, Unavailable


async def forever(started: asyncio.Event, ended: list[str], name: str) -> None:
    started.set()
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(name)


async def test_tasks_end_with_the_context() -> None:
    started, ended = asyncio.Event(), list[str]()
    async with Background() as background:
        background.start(forever(started, ended, "one"), "one")
        await started.wait()
    assert ended == ["one"]


async def test_a_defect_is_logged_and_ends_only_its_task(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    started, ended = asyncio.Event(), list[str]()
    async with Background() as background:
        other = background.start(forever(started, ended, "one"), "one")
        await asyncio.wait([background.start(fail(), "the failing one")])
        assert not other.done()
    assert "the failing one" in caplog.text


async def test_a_task_may_start_another_while_it_is_ended() -> None:
    started, ended = asyncio.Event(), list[str]()

    async def successor(background: Background) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            background.start(forever(started, ended, "second"), "second")

    async with Background() as background:
        background.start(successor(background), "first")
        await asyncio.sleep(0)
    assert ended in ([], ["second"])  # it may have had no time to begin
    assert len(asyncio.all_tasks()) == 1


async def test_end_waits_for_the_clean_up() -> None:
    started, ended = asyncio.Event(), list[str]()
    task = asyncio.create_task(forever(started, ended, "one"))
    await started.wait()
    await end(task)
    assert ended == ["one"]


async def test_together_keeps_the_order_and_the_bound() -> None:
    running = most = 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5 - number):
            await asyncio.sleep(0)
        running -= 1
        return number

    assert await together([work(number) for number in range(5)], at_once=2) == [0, 1, 2, 3, 4]
    assert most == 2


async def test_together_raises_the_error_alone_and_cancels_the_rest() -> None:
    started, ended = asyncio.Event(), list[str]()

    async def fail() -> None:
        await started.wait()
        raise NotFound("nothing there")

    with pytest.raises(NotFound, match="nothing there"):
        await together([forever(started, ended, "one"), fail()], at_once=2)
    assert ended == ["one"]


async def test_together_closes_what_never_began() -> None:
    async def fail() -> None:
        raise Unavailable("gone")

    with pytest.raises(Unavailable):
        await together([fail(), fail(), fail()], at_once=1)  # a coroutine never awaited would warn, which fails a test


async def test_a_cancel_that_comes_with_the_event_is_not_lost() -> None:
    """With asyncio.wait_for in its place, this loop goes on for ever."""
    event = asyncio.Event()

    async def loop() -> None:
        while True:
            await set_within(event, 60)
            event.clear()

    looping = asyncio.create_task(loop())
    for _ in range(2):
        await asyncio.sleep(0)
    event.set()
    await asyncio.sleep(0)
    looping.cancel()
    done, _ = await asyncio.wait([looping], timeout=5)
    assert done == {looping}


async def test_set_within_ends_by_time_or_event() -> None:
    event = asyncio.Event()
    await set_within(event, 0.01)
    assert not event.is_set()
    event.set()
    await set_within(event, 60)
