"""Beats on a stream: one is sent when nothing else was for a while, and silence of the far side is noticed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import ClassVar, Generic, Self, TypeVar
from weakref import WeakKeyDictionary

import grpc.aio

from protos.errors import Unavailable
from protos.route import Hop
from protos.silence import LOOK_SECONDS, Attention, Pace, Silence, Verdict

M = TypeVar("M")

# What a write raises on a stream that has ended: who reads it is told why.
ENDED = (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError)


class BeatingWriter(Generic[M]):
    """Writes to a stream one message at a time, as gRPC wants it."""

    def __init__(self, write: Callable[[M], Awaitable[object]], beat: M) -> None:
        """`beat`: the empty message."""
        self._write = write
        self._beat = beat
        self._writing = asyncio.Lock()
        self._now = asyncio.get_running_loop().time
        self._written_at = self._now()

    async def write(self, message: M) -> None:
        """Raises one of ENDED when the stream has ended."""
        async with self._writing:
            try:
                await self._write(message)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                raise asyncio.InvalidStateError("the stream was cancelled here") from None
            self._written_at = self._now()

    async def beat(self, seconds: float) -> None:
        """For ever: a beat whenever nothing was written for so long; 0: none."""
        await self.beat_at(Pace(seconds, lambda: True, self._now), lambda _: self._beat)

    async def beat_at(self, pace: Pace, announce: Callable[[float], M]) -> None:
        """The same at a pace that changes: `announce` makes the message that tells of a new one, which is sent first."""
        announced = fastest = pace.seconds
        with contextlib.suppress(*ENDED):
            while announced:
                if (seconds := pace.seconds) != announced:
                    await self.write(announce(seconds))
                    announced = seconds
                wait = self._written_at + announced - self._now()
                if wait > 0:
                    await asyncio.sleep(min(wait, fastest))
                else:
                    await self.write(self._beat)
        await asyncio.Event().wait()


class Watch:
    """A context manager: while inside, silence of the far side is judged, if it beats.

    `changed` is told of each change of the verdict.
    """

    def __init__(self, beat_seconds: float, changed: Callable[[Silence], None] = lambda _: None) -> None:
        """`beat_seconds` as the far side announced; 0: it does not beat, and is always well."""
        self._beat_seconds = beat_seconds
        self._changed = changed
        self._looks = _Looks.of_this_loop()
        self._heard_at = self._looks.seconds
        self._excused = 0
        self._gone = asyncio.Event()
        self.verdict: Verdict = "well"

    def __enter__(self) -> Self:
        self._heard_at = self._looks.seconds
        if self._beat_seconds:
            self._looks.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._looks.remove(self)

    @property
    def beat_seconds(self) -> float:
        """As it was announced last."""
        return self._beat_seconds

    @property
    def beats(self) -> bool:
        """Whether the far side does."""
        return bool(self._beat_seconds)

    @property
    def silence(self) -> Silence:
        """Until now."""
        return Silence(0.0 if self._excused else self._looks.seconds - self._heard_at, self._beat_seconds or 1.0)

    def expect(self, beat_seconds: float) -> None:
        """The far side has announced another beat. One that never had one has none."""
        if self._beat_seconds and beat_seconds:
            self._beat_seconds = beat_seconds
            self.heard()

    def heard(self) -> None:
        """Something came."""
        self._heard_at = self._looks.seconds
        if self.verdict != "well":
            self._is("well")

    @contextmanager
    def excused(self) -> Iterator[None]:
        """While inside, what came is not read, so that silence says nothing."""
        self._excused += 1
        try:
            yield
        finally:
            self._excused -= 1
            self.heard()

    async def until_gone(self, who: Hop) -> None:
        """Raises Unavailable, saying for how long `who` was silent."""
        await self._gone.wait()
        raise self.error().at(who)

    def error(self) -> Unavailable:
        return Unavailable(f"it was {self.silence}")

    def look(self) -> None:
        """Let silence tell."""
        if (verdict := self.silence.verdict) != self.verdict:
            self._is(verdict)

    def _is(self, verdict: Verdict) -> None:
        self.verdict = verdict
        if verdict == "gone":
            self._gone.set()
        self._changed(self.silence)


class _Looks:
    """One timer for all watches of an event loop, which stands still while there are none."""

    _of: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, _Looks]] = WeakKeyDictionary()

    def __init__(self, now: float) -> None:
        self._attention = Attention(now)
        self._watches: dict[Watch, None] = {}
        self._ticking = False

    @classmethod
    def of_this_loop(cls) -> _Looks:
        loop = asyncio.get_running_loop()
        if loop not in cls._of:
            cls._of[loop] = cls(loop.time())
        return cls._of[loop]

    @property
    def seconds(self) -> float:
        return self._attention.seconds

    def add(self, watch: Watch) -> None:
        self._watches[watch] = None
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def remove(self, watch: Watch) -> None:
        self._watches.pop(watch, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._attention.look(loop.time())
        for watch in list(self._watches):
            watch.look()
        self._ticking = bool(self._watches)
        if self._ticking:
            loop.call_later(LOOK_SECONDS, self._look)
