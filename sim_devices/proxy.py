"""TCP connections on loopback that pass over lines: delayed, held back, cut, in order and unchanged."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from sim_devices.shaping import Line

_READ_BYTES = 65536
QUEUE_SECONDS = 0.1  # what may wait to leave at the line's rate before the sender must wait, as a switch's buffer does
FLIGHT_BYTES = 4 << 20  # on the way per connection and direction: a Linux sender's largest buffer (tcp_wmem)
# epoll waits whole milliseconds, rounded up: half of one less makes the error even.
_EARLY_SECONDS = 0.0005


class Lane:
    """A line, and whether anything passes: while it does not, nobody is told (a cable pulled)."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._passing = asyncio.Event()
        self._passing.set()

    @property
    def cut(self) -> bool:
        return not self._passing.is_set()

    @cut.setter
    def cut(self, value: bool) -> None:
        if value:
            self._passing.clear()
        else:
            self._passing.set()

    async def passing(self) -> None:
        await self._passing.wait()


@dataclass(frozen=True)
class Way:
    """Where a connection goes on, and over which lanes."""

    host: str
    port: int
    there: Lane
    back: Lane
    greeting: bytes = b""  # to who dialled, once the far side is connected


# Reads from the new connection what names its way; None refuses it.
Find = Callable[[asyncio.StreamReader], Awaitable[Way | None]]


class Door:
    """A listening port on `host`, an async context manager. Connections that the far side refuses are reset.

    `lives`, for tests: how many bytes towards the target each of the connections to come lives.
    """

    def __init__(self, find: Find, host: str = "127.0.0.1") -> None:
        self._find = find
        self._host = host
        self.port = 0
        self.lives: list[int] = []
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"{self._host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, self._host, 0, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.sleep(0)  # one that was accepted in this very moment begins, so that it can end
        await self.reset()

    async def reset(self) -> None:
        """What is connected now ends; new connections are taken."""
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        left = self.lives.pop(0) if self.lives else None
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
                way = await self._find(reader)
                if way is not None:
                    await _connect(way, reader, writer, left)
        finally:
            writer.transport.abort()
            self._open.discard(task)


async def _connect(way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None) -> None:
    await way.there.passing()
    await way.back.passing()
    await asyncio.sleep(way.there.line.round_trip_seconds)  # SYN and its answer
    far_reader, far_writer = await asyncio.open_connection(way.host, way.port)
    tasks: list[asyncio.Task[None]] = []
    try:
        for each in (writer, far_writer):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer.write(way.greeting)
        flows = [_Flow(way.there, reader, far_writer, left), _Flow(way.back, far_reader, writer, None)]
        tasks += [asyncio.create_task(part) for flow in flows for part in (flow.take(), flow.give())]
        # A side that has said its last word may still listen: gRPC's never do, but the others are not ours to cut.
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        for each in (writer, far_writer):  # what they still hold goes out before their ends do
            each.close()
            await each.wait_closed()
    finally:
        far_writer.transport.abort()  # first: the waiting below may be cancelled
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Flow:
    """One direction of one connection."""

    def __init__(self, lane: Lane, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None) -> None:
        self._lane = lane
        self._reader = reader
        self._writer = writer
        self._left = left
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._flying = 0
        self._last = 0.0
        self._changed = asyncio.Event()
        self._clock = asyncio.get_running_loop().time

    async def take(self) -> None:
        """Reads, and puts what was read on its way. b"" is the end."""
        line = self._lane.line
        while True:
            while self._flying > FLIGHT_BYTES:
                await self._news()
            if (ahead := line.queue_seconds(self._clock()) - QUEUE_SECONDS) > 0:
                await asyncio.sleep(ahead)
            data = await self._reader.read(min(_READ_BYTES, 100 * line.piece_bytes))
            if self._left is not None and len(data) > self._left:
                data = data[: self._left]
            self._send(data)
            if not data:
                return
            if self._left is not None:
                self._left -= len(data)
                if not self._left:
                    while self._flying:
                        await self._news()
                    raise ConnectionResetError

    async def give(self) -> None:
        while True:
            while not self._pieces:
                await self._news()
            arrives, data = self._pieces[0]
            if (wait := arrives - self._clock() - _EARLY_SECONDS) > 0:
                await asyncio.sleep(wait)
            if self._lane.cut:
                await self._lane.passing()
            self._pieces.popleft()
            self._flying -= len(data)
            if not data:
                self._writer.write_eof()
                return
            self._writer.write(data)
            await self._writer.drain()
            self._tell()

    def _send(self, data: bytes) -> None:
        """TCP keeps the order: nothing arrives before what was sent before it."""
        line, now = self._lane.line, self._clock()
        size = max(1, line.piece_bytes)
        for start in range(0, len(data) or 1, size):
            piece = data[start : start + size]
            if not line.plain:
                self._last = max(self._last, line.send(now, len(piece), len(data) - start - len(piece)))
            self._pieces.append((self._last, piece))
            self._flying += len(piece)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()

    async def _news(self) -> None:
        self._changed.clear()
        await self._changed.wait()
