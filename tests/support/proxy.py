"""A TCP proxy on loopback that behaves as a bad network does: it delays, stalls, cuts."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class Proxy:
    """Passes bytes between who connects to `address` and "host:port" `target`, in order and unchanged, until told otherwise.

    `delay_seconds` is added to each piece on its way; `cut_after_bytes` lists, for the connections to come, how many bytes towards the
    target each lives (both directions end with a reset).
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.address = ""
        self.delay_seconds = 0.0
        self.cut_after_bytes: list[int] = []
        self.connections = 0  # ever accepted
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    def stall(self) -> None:
        """From now on nothing passes, and nobody is told: a cable pulled."""
        self._flowing.clear()

    def resume(self) -> None:
        """What waited passes."""
        self._flowing.set()

    async def cut(self) -> None:
        """Reset what is connected now; new connections are taken."""
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        limit = self.cut_after_bytes.pop(0) if self.cut_after_bytes else None
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._connect(reader, writer, limit)
        writer.transport.abort()
        self._open.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        ways = [asyncio.create_task(self._pass(reader, far_writer, limit)), asyncio.create_task(self._pass(far_reader, writer, None))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None) -> None:
        """Until its side ends, or `left` bytes have passed."""
        while data := await reader.read(65536):
            await asyncio.sleep(self.delay_seconds)
            await self._flowing.wait()
            if left is not None:
                data, left = data[:left], left - len(data)
            writer.write(data)
            await writer.drain()
            if left is not None and left <= 0:
                return
