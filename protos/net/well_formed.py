"""Messages that are none: refused as what they are.

gRPC makes of a message that cannot be read a status that says nothing (UNKNOWN), and a traceback for each: whoever sends some thousand
fills the log.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from protos.errors import InvalidInput
from protos.rpc_errors import answered

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class WellFormed(grpc.aio.ServerInterceptor):
    """Makes InvalidInput of what is no message of the method's type."""

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]], details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        handler = await continuation(details)
        if handler is None or handler.request_deserializer is None:
            return handler
        return _streamed(handler) if handler.request_streaming else _single(handler)


def _streamed(handler: _Handler) -> _Handler:
    """The servicer reads, and has the error where it does."""
    parse: Any = handler.request_deserializer

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            raise _error() from None

    serve, kind = (handler.stream_stream, "stream_stream") if handler.response_streaming else (handler.stream_unary, "stream_unary")
    return _made(kind, serve, parsed, handler)


def _single(handler: _Handler) -> _Handler:
    """gRPC reads before there is a servicer to tell: what cannot be read is handed on as bytes."""
    parse: Any = handler.request_deserializer

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return data

    serve: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary

    async def answer(request: Any, context: _Context) -> Any:
        await _check(request, context)
        return await serve(request, context)

    async def answers(request: Any, context: _Context) -> AsyncIterator[Any]:
        await _check(request, context)
        async for item in serve(request, context):
            yield item

    kind = "unary_stream" if handler.response_streaming else "unary_unary"
    return _made(kind, answers if inspect.isasyncgenfunction(serve) else answer, parsed, handler)


async def _check(request: Any, context: _Context) -> None:
    async with answered(context):
        if isinstance(request, bytes):
            raise _error()


def _made(kind: str, serve: Any, parsed: Callable[[bytes], Any], handler: _Handler) -> _Handler:
    made: _Handler = getattr(grpc, f"{kind}_rpc_method_handler")(serve, parsed, handler.response_serializer)
    return made


def _error() -> InvalidInput:
    return InvalidInput(
        "what was sent cannot be read as a message of this call", advice="do both sides run glmfleet, and the same version?"
    )
