"""Many connections of bytes over one stream of frames, each with a bound of its own: the same at both ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from protos.errors import InvalidInput
from protos.net.beats import ENDED
from protos.v1 import relay_pb2 as pb

# Under way of one connection in one direction: at 50 ms there and back that allows 5 MB/s.
WINDOW_BYTES = 256 << 10
_CHUNK_BYTES = 32 << 10  # of one frame: what is urgent waits behind one of another connection's at most
_LINGER_SECONDS = 2.0  # that who is here has to read the last bytes
_CREDIT_BYTES = WINDOW_BYTES // 4  # is given at once, not byte for byte


@dataclass
class _Connection:
    may_send: int = WINDOW_BYTES
    may_send_more: asyncio.Event = field(default_factory=asyncio.Event)
    came: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)  # b"": it has ended there
    unacknowledged: int = 0  # bytes that came and were not given credit for again


class Tunnel:
    """`open` or `carry` connections, `take` each frame that comes, `end` with the stream. Used from one event loop."""

    def __init__(self, send: Callable[[pb.RelayFrame], Awaitable[object]]) -> None:
        """`send` raises one of ENDED when the stream has ended."""
        self._send = send
        self._open: dict[int, _Connection] = {}

    async def open(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """As `carry`, of a connection that the far side does not know yet."""
        self.expect(number)
        try:
            await self._send(pb.RelayFrame(connection=number, opened=True))
        except ENDED:
            self._open.pop(number, None)
            writer.close()
            return
        await self.carry(number, reader, writer)

    def expect(self, number: int) -> None:
        """The far side has opened it: what comes is kept until `carry` or `refuse`."""
        self._open.setdefault(number, _Connection())

    async def refuse(self, number: int) -> None:
        """There is nobody here for that connection, or no more."""
        self._open.pop(number, None)
        with contextlib.suppress(*ENDED):
            await self._send(pb.RelayFrame(connection=number, ended=True))

    def end(self) -> None:
        """The stream has ended, and all connections with it."""
        for connection in self._open.values():
            connection.came.put_nowait(b"")

    async def carry(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either end closes it, or the stream ends; then it is closed here, and the far side is told."""
        self.expect(number)
        connection = self._open[number]
        out = asyncio.create_task(self._out(number, connection, reader), name=f"out of connection {number}")
        into = asyncio.create_task(self._in(number, connection, writer), name=f"into connection {number}")
        try:
            await asyncio.wait({out, into}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (out, into):
                task.cancel()
            try:
                await asyncio.gather(out, into, return_exceptions=True)
                await self.refuse(number)
            finally:
                await _close(writer)

    def take(self, frame: pb.RelayFrame) -> None:
        """Raises InvalidInput for more bytes than there was credit for."""
        connection = self._open.get(frame.connection)
        if connection is None:
            return
        match frame.WhichOneof("what"):
            case "data":
                connection.unacknowledged += len(frame.data)
                if connection.unacknowledged > WINDOW_BYTES:
                    raise InvalidInput("more bytes came through the relay than there was credit for")
                if frame.data:
                    connection.came.put_nowait(frame.data)
            case "credit":
                connection.may_send = min(connection.may_send + frame.credit, WINDOW_BYTES)
                connection.may_send_more.set()
            case "ended":
                connection.came.put_nowait(b"")

    async def _out(self, number: int, connection: _Connection, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, *ENDED):
            while True:
                while connection.may_send <= 0:
                    connection.may_send_more.clear()
                    await connection.may_send_more.wait()
                data = await reader.read(min(_CHUNK_BYTES, connection.may_send))
                if not data:
                    return
                connection.may_send -= len(data)
                await self._send(pb.RelayFrame(connection=number, data=data))

    async def _in(self, number: int, connection: _Connection, writer: asyncio.StreamWriter) -> None:
        written = 0
        with contextlib.suppress(OSError, *ENDED):
            while data := await connection.came.get():
                writer.write(data)
                await writer.drain()
                written += len(data)
                if written >= _CREDIT_BYTES:
                    connection.unacknowledged -= written
                    await self._send(pb.RelayFrame(connection=number, credit=written))
                    written = 0


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                await writer.wait_closed()
    finally:
        writer.transport.abort()
