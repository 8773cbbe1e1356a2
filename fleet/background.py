"""Long-lived tasks: named, guarded so that one's defect does not end the others, ended together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from protos.errors import FleetError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Background:
    """An async context manager that owns tasks; on exit they are cancelled and awaited."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._tasks:  # a task that is being cancelled may start another to clean up
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `work` until it ends or this context does. An exception that leaves it is logged as a defect, and ends only it."""
        task = asyncio.get_running_loop().create_task(_guarded(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled before its first step, it would warn that nobody awaited it
        return task


async def _guarded(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except asyncio.CancelledError:
        raise
    except Exception:
        _log.exception("a defect: the task %r ended", name)


async def end(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it is over. Being cancelled oneself meanwhile still cancels."""
    task.cancel()
    await asyncio.wait([task])


def cancel_once(task: asyncio.Task[None]) -> None:
    """A second cancel would cut short the clean-up that the first began."""
    if not task.done() and not task.cancelling():
        task.cancel()


async def to_its_end(work: Awaitable[_T]) -> _T:
    """The result of `work`, which is not cut short when its caller is cancelled meanwhile: then that is raised after its end."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


async def set_within(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, or the seconds have passed.

    Not by asyncio.wait_for: before Python 3.12 it loses a cancel that comes together with the event.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def together(work: Iterable[Awaitable[_T]], *, at_once: int) -> list[_T]:
    """Results in order, at most `at_once` at a time. The first error cancels the rest and is raised alone, not in a group."""
    gate = asyncio.Semaphore(at_once)

    async def gated(one: Awaitable[_T]) -> _T:
        async with gate:
            return await one

    awaited = list(work)
    tasks: list[asyncio.Task[_T]] = []
    try:
        async with asyncio.TaskGroup() as running:
            tasks = [running.create_task(gated(one)) for one in awaited]
    except BaseExceptionGroup as group:
        if errors := group.subgroup(FleetError):
            raise _first(errors) from None
        raise
    finally:
        for one in awaited:
            if asyncio.iscoroutine(one):
                one.close()  # those never begun would warn
    return [task.result() for task in tasks]


def _first(group: BaseExceptionGroup[FleetError]) -> FleetError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, FleetError)
    return error


async def was_done(task: asyncio.Task[None]) -> bool:
    """Wait for its end, which leaving early does not bring about; False when it was cancelled. Raises what it raised."""
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return not task.cancelled()
