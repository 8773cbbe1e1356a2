"""Which member of a fleet may call what, by the role that the authority wrote into its certificate."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from protos.errors import Denied
from protos.ids import FleetId
from protos.rpc_errors import CODE_KEY, status_of
from protos.v1 import device_pb2, gateway_pb2, pipeline_pb2

_DEVICE = device_pb2.DESCRIPTOR.services_by_name["Device"].full_name
_GATEWAY = gateway_pb2.DESCRIPTOR.services_by_name["Gateway"].full_name
_PIPELINE = pipeline_pb2.DESCRIPTOR.services_by_name["Pipeline"].full_name
_MEMBER = re.compile(r"glmfleet://(?P<fleet>[a-z2-7]{16})/(?P<role>[a-z]+)/[a-z2-7]{16}")

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def roles_for(method: str) -> tuple[str, ...]:
    """Who may call "/package.Service/Method"; empty: nobody, since a method that is not listed here was forgotten here."""
    service, _, name = method.removeprefix("/").partition("/")
    if service in (_DEVICE, _GATEWAY):
        return ("coordinator",)
    # A device behind a gateway dials its neighbour as its gateway.
    return {"Generate": ("coordinator",), "Flow": ("device", "gateway")}.get(name, ()) if service == _PIPELINE else ()


def roles_in(names: list[str], fleet: FleetId) -> set[str]:
    """The roles in this fleet among the URI names of a certificate."""
    return {match["role"] for name in names if (match := _MEMBER.fullmatch(name)) and match["fleet"] == fleet}


class OnlyItsRole(grpc.aio.ServerInterceptor):
    """Refuses calls of members whose certificate gives them another role: a device taken over must not command the others.

    For servers with TLS, which has proven by then that the authority signed for the caller: for a member of this fleet, which the
    certificate says.
    """

    def __init__(self, fleet: FleetId) -> None:
        self._fleet = fleet

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]], details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        handler = await continuation(details)
        # Who calls is known only to the call's own context, so the check goes around the handler.
        return None if handler is None else guarded(handler, str(details.method), self._fleet)


def guarded(handler: _Handler, method: str, fleet: FleetId) -> _Handler:
    """The handler of `method`, for callers that have a role for it in this fleet alone."""
    (kind,) = [kind for kind in _KINDS if getattr(handler, kind)]
    serve = getattr(handler, kind)
    allowed = roles_for(method)

    async def check(context: _Context) -> None:
        found = roles_in([uri.decode(errors="replace") for uri in context.auth_context().get("peer_uri", ())], fleet)
        if found.isdisjoint(allowed):
            who = f"a {' and '.join(sorted(found))}" if found else "nobody of the fleet"
            error = Denied(f"{method.rpartition('/')[2]} is for {_either(allowed)}; the caller is {who}")
            await context.abort(status_of(error), error.detail, ((CODE_KEY, "Denied"),))

    async def answer(request: Any, context: _Context) -> Any:
        await check(context)
        return await serve(request, context)

    async def answers(request: Any, context: _Context) -> AsyncIterator[Any]:
        await check(context)
        async for item in serve(request, context):
            yield item

    make = getattr(grpc, f"{kind}_rpc_method_handler")
    wrapped: _Handler = make(
        answers if inspect.isasyncgenfunction(serve) else answer, handler.request_deserializer, handler.response_serializer
    )
    return wrapped


def _either(roles: tuple[str, ...]) -> str:
    return f"a {' or '.join(roles)}" if roles else "nobody"
