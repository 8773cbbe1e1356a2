"""A clock that jumps: an event loop whose time stands still while anything can be done, and then goes on to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar, TypeVarTuple, Unpack

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class NothingLeft(RuntimeError):
    """Everybody waits, and no timer will ever wake anybody."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time` is in seconds since the loop was made.

    What is given to an executor runs at once, in the loop's own thread, and takes no time: the order of events then depends on the program
    alone. Sockets are looked at, never waited for.
    """

    def __init__(self) -> None:
        self._virtual_seconds = 0.0
        super().__init__(_Jumping(self._jump))

    def time(self) -> float:
        return self._virtual_seconds

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> asyncio.Future[_T]:
        done: asyncio.Future[_T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def _jump(self, seconds: float) -> None:
        self._virtual_seconds += seconds


class _Jumping(selectors.BaseSelector):
    """Instead of waiting for `timeout` seconds, says that they have passed."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        self._below = selectors.DefaultSelector()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._below.select(0)
        if not ready:
            if timeout is None:
                raise NothingLeft("everybody waits, and no timer is set")
            self._jump(max(0.0, timeout))
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._below.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._below.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._below.modify(fileobj, events, data)

    def close(self) -> None:
        self._below.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._below.get_map()


def run_virtual(main: Coroutine[Any, Any, _T]) -> _T:
    """asyncio.run under virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
