"""Small shapes of concurrency that asyncio has no word for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends; the others are cancelled and waited for. Raises what the one that ended raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def in_thread(function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    """asyncio.to_thread that, when cancelled, first waits for the thread: nothing works on what the caller then gives up."""
    task = asyncio.create_task(asyncio.to_thread(function, *arguments, **named), name=getattr(function, "__qualname__", "thread"))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # nobody is left to be told
        raise
