"""One call within a process: two streams of messages, how it ended, and what client and servicer hold of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, TypeAlias

import grpc
import grpc.aio

from protos.net.transport import MESSAGE_BYTES

Metadata: TypeAlias = "tuple[tuple[str, str | bytes], ...]"

ROOM = 16  # messages on their way in one direction: then the sender waits, as for gRPC's window

_LIMIT = f"Received message larger than max ({MESSAGE_BYTES})"


class _Pipe:
    """One direction. Ends when the sender says so, or at once with the call."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._ended = False
        self._moved = asyncio.Event()

    async def put(self, message: bytes) -> None:
        """Waits for room. Raises InvalidStateError when it has ended."""
        while len(self._messages) >= ROOM and not self._ended:
            await self._wait()
        self.push(message)

    def push(self, message: bytes) -> None:
        if self._ended:
            raise asyncio.InvalidStateError("RPC is done")
        self._messages.append(message)
        self._tell()

    async def get(self) -> bytes | None:
        """None at the end."""
        while not self._messages and not self._ended:
            await self._wait()
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._tell()
        return message

    def end(self, *, drop: bool = False) -> None:
        if drop:
            self._messages.clear()
        self._ended = True
        self._tell()

    async def _wait(self) -> None:
        moved = self._moved
        await moved.wait()

    def _tell(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


class Wire:
    """What both sides share. The first end counts."""

    def __init__(self) -> None:
        self.requests, self.responses = _Pipe(), _Pipe()
        self.code: grpc.StatusCode | None = None  # None: it goes on
        self.details = ""
        self.trailing: Metadata = ()
        self.cancelled = False  # by the client
        self._when_ended: list[Callable[[], object]] = []

    def when_ended(self, tell: Callable[[], object]) -> None:
        if self.code is None:
            self._when_ended.append(tell)
        else:
            tell()

    def end(self, code: grpc.StatusCode, details: str = "", trailing: Metadata = (), *, cancelled: bool = False) -> None:
        if self.code is not None:
            return
        self.code, self.details, self.trailing, self.cancelled = code, details, trailing, cancelled
        self.requests.end(drop=True)
        self.responses.end(drop=cancelled)  # what the servicer sent before it ended still arrives
        for tell in self._when_ended:
            tell()

    def error(self) -> BaseException | None:
        """What a client is to be raised; None when all is well."""
        if self.cancelled:
            return asyncio.CancelledError()
        if self.code in (None, grpc.StatusCode.OK):
            return None
        assert self.code is not None
        return grpc.aio.AioRpcError(self.code, grpc.aio.Metadata(), grpc.aio.Metadata(*self.trailing), self.details)


class MemoryCall:
    """The client's side, in the words of grpc.aio's calls of all four kinds."""

    def __init__(self, wire: Wire, serialize: Callable[[Any], bytes], deserialize: Callable[[bytes], Any], timeout: float | None) -> None:
        self._wire = wire
        self._serialize = serialize
        self._deserialize = deserialize
        self._sender: asyncio.Task[None] | None = None
        if timeout is not None:
            timer = asyncio.get_running_loop().call_later(timeout, wire.end, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            wire.when_ended(timer.cancel)

    def send_one(self, request: Any) -> None:
        message = self._checked(request)
        if self._wire.code is None:
            self._wire.requests.push(message)
            self._wire.requests.end()

    def send_all(self, requests: Any) -> None:
        """Of an iterable or an asynchronous one; None: `write` will be used."""
        if requests is not None:
            self._sender = asyncio.create_task(self._send(requests))
            self._wire.when_ended(self._sender.cancel)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._only().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def read(self) -> Any:
        """EOF at the end. Raises AioRpcError, or CancelledError when the call was cancelled here."""
        try:
            message = await self._wire.responses.get()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if message is not None:
            return self._deserialize(message)
        await self._end()
        return grpc.aio.EOF

    async def write(self, request: Any) -> None:
        """Raises InvalidStateError when the call is over."""
        await self._wire.requests.put(self._checked(request))

    async def done_writing(self) -> None:
        self._wire.requests.end()

    def cancel(self) -> bool:
        if self._wire.code is not None:
            return False
        self._wire.end(grpc.StatusCode.CANCELLED, "Locally cancelled by application!", cancelled=True)
        return True

    def done(self) -> bool:
        return self._wire.code is not None

    def cancelled(self) -> bool:
        return self._wire.cancelled

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._wire.when_ended(lambda: callback(self))

    async def code(self) -> grpc.StatusCode:
        await self._over()
        assert self._wire.code is not None
        return self._wire.code

    async def details(self) -> str:
        await self._over()
        return self._wire.details

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        await self._over()
        return grpc.aio.Metadata(*self._wire.trailing)

    async def _only(self) -> Any:
        message = await self.read()
        if message is grpc.aio.EOF:
            raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), "no response")
        await self._end()
        return message

    async def _end(self) -> None:
        await self._over()
        if error := self._wire.error():
            raise error

    async def _over(self) -> None:
        if self._wire.code is None:
            over = asyncio.Event()
            self._wire.when_ended(over.set)
            try:
                await over.wait()
            except asyncio.CancelledError:
                self.cancel()
                raise

    async def _send(self, requests: Any) -> None:
        with contextlib.suppress(asyncio.InvalidStateError):  # the far side has ended it, and says why
            if hasattr(requests, "__aiter__"):
                async for request in requests:
                    await self.write(request)
            else:
                for request in requests:
                    await self.write(request)
            await self.done_writing()

    def _checked(self, request: Any) -> bytes:
        message = self._serialize(request)
        if len(message) > MESSAGE_BYTES:
            self._wire.end(grpc.StatusCode.RESOURCE_EXHAUSTED, _LIMIT)
        return message


class MemoryContext:
    """The servicer's side: what our servicers use of grpc.aio.ServicerContext."""

    def __init__(self, wire: Wire, handler: Any, metadata: Metadata, uris: list[bytes]) -> None:
        self._wire = wire
        self._handler = handler
        self._metadata = metadata
        self._uris = uris

    async def read(self) -> Any:
        message = await self._wire.requests.get()
        if message is None:
            return grpc.aio.EOF
        return self._handler.request_deserializer(message) if self._handler.request_deserializer else message

    async def write(self, response: Any) -> None:
        message = self._handler.response_serializer(response) if self._handler.response_serializer else response
        if len(message) > MESSAGE_BYTES:
            self._wire.end(grpc.StatusCode.RESOURCE_EXHAUSTED, _LIMIT)
        await self._wire.responses.put(message)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> None:
        self._wire.end(code, details, tuple(trailing_metadata))
        raise grpc.aio.AbortError

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"peer_uri": self._uris}


async def serve_call(handler: Any, wire: Wire, metadata: Metadata, uris: list[bytes]) -> None:
    """Run a servicer's method over the wire, whatever its kind, and end the call with what came of it."""
    context = MemoryContext(wire, handler, metadata, uris)
    try:
        if handler.request_streaming:
            method = handler.stream_stream if handler.response_streaming else handler.stream_unary
            asked: Any = _requests(context)
        else:
            method = handler.unary_stream if handler.response_streaming else handler.unary_unary
            asked = await context.read()
            if asked is grpc.aio.EOF:
                return  # the caller left before it had asked
        answered = method(asked, context)
        if hasattr(answered, "__aiter__"):
            async with contextlib.aclosing(answered) as responses:
                async for response in responses:
                    await context.write(response)
        else:
            response = await answered
            if not handler.response_streaming:
                await context.write(response)
        wire.end(grpc.StatusCode.OK)
    except grpc.aio.AbortError:
        pass
    except asyncio.CancelledError:
        wire.end(grpc.StatusCode.CANCELLED, "the servicer was cancelled")
        raise
    except Exception as error:  # as gRPC does with what a servicer lets through
        wire.end(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}")


async def _requests(context: MemoryContext) -> AsyncIterator[Any]:
    while (message := await context.read()) is not grpc.aio.EOF:
        yield message
