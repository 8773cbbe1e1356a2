"""Server-sent events that stop their source the moment the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from protos.errors import FleetError
from protos.rpc_errors import as_fleet_error

# A client that takes nothing for so long is gone, whatever its connection says: its sequence holds a slot that others wait for.
STALL_SECONDS = 60.0
# After so long a silence the client is sent a comment: proxies and clients end connections on which nothing comes.
KEEP_ALIVE_SECONDS = 10.0
# For a route's OpenAPI entry.
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"}}
LINES: dict[int | str, dict[str, Any]] = {200: {"content": {"application/x-ndjson": {}}, "description": "Lines of JSON"}}

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class ClientGone(Exception):
    """Nobody is left to answer."""


@dataclass(frozen=True)
class ServerSentEvent:
    """One event: `data` is a single line (JSON), `name` may be empty. `number`: what a client that comes back says as Last-Event-ID."""

    data: str
    name: str = ""
    number: int | None = None

    def encode(self) -> bytes:
        head = f"event: {self.name}\n" if self.name else ""
        head += "" if self.number is None else f"id: {self.number}\n"
        return f"{head}data: {self.data}\n\n".encode()


class Part(Protocol):
    """Of what a stream sends."""

    def encode(self) -> bytes: ...


class EventStream(StreamingResponse):
    """Sends what `events` yields.

    An error before the first event is raised, so it becomes an ordinary response with its status; a later one becomes the event that
    `failed` makes of it. The generator is closed when it ends, when the client leaves (seen at once, not at the next event) and when the
    server stops. The client's pace is the generator's: nothing is asked of it while the socket is full, but not for longer than
    `stall_seconds`.
    """

    kind = "text/event-stream"
    pulse = b": still at it\n\n"  # what a silent stream is sent

    def __init__(
        self,
        events: AsyncGenerator[Part],
        failed: Callable[[FleetError], Part],
        *,
        stall_seconds: float = STALL_SECONDS,
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        super().__init__(iter(()), media_type=self.kind, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._events = events
        self._failed = failed
        self._stall_seconds = stall_seconds
        self._keep_alive_seconds = keep_alive_seconds
        self._sending = asyncio.Lock()
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._send_all(send))
        except (ClientGone, OSError):
            _log.debug("the client left before the end, or takes nothing")

    async def _send_all(self, send: Send) -> None:
        started = False
        pulse: asyncio.Task[None] | None = None
        async with aclosing(self._events) as events:
            try:
                async for event in events:
                    if not started:
                        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                        started, self._sent_at = True, asyncio.get_running_loop().time()
                        pulse = asyncio.create_task(self._keep_alive(send), name="keep alive") if self.pulse else None
                    await self._send_part(send, event.encode())
            except (ClientGone, OSError):
                raise
            except Exception as error:
                if not started:
                    raise
                await self._send_part(send, self._failed(_named(error)).encode())
            finally:
                if pulse is not None:
                    pulse.cancel()
                    await asyncio.gather(pulse, return_exceptions=True)
        if started:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send) -> None:
        """A comment after each silence, until it is cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            left = self._sent_at + self._keep_alive_seconds - clock()
            if left > 0 or self._sending.locked():
                await asyncio.sleep(max(left, self._keep_alive_seconds / 10))
                continue
            with suppress(ClientGone, OSError):  # the next event finds out
                await self._send_part(send, self.pulse)

    async def _send_part(self, send: Send, body: bytes) -> None:
        try:
            async with asyncio.timeout(self._stall_seconds), self._sending:
                await send({"type": "http.response.body", "body": body, "more_body": True})
        except TimeoutError:
            raise ClientGone from None
        self._sent_at = asyncio.get_running_loop().time()


class LineStream(EventStream):
    """Of lines of JSON, in which nothing can stand that says nothing."""

    kind = "application/x-ndjson"
    pulse = b""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`; cancels it and raises ClientGone when the client leaves first."""
    task = asyncio.create_task(work, name="answer")
    gone = asyncio.create_task(_disconnected(receive), name="client leaves")
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _named(error: Exception) -> FleetError:
    told = as_fleet_error(error)
    if told is not error:
        _log.error("a defect, in the middle of an answer", exc_info=error)
    return told
