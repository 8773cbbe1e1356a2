"""Which member of a fleet may call what, by the role that the authority wrote into its certificate."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import grpc.aio

from protos.errors import Denied
from protos.ids import DeviceId, FleetId
from protos.net.credentials import Revoked
from protos.rpc_errors import answered
from protos.v1 import device_pb2, gateway_pb2, member_pb2, pipeline_pb2, relay_pb2

_DEVICE = device_pb2.DESCRIPTOR.services_by_name["Device"].full_name
_GATEWAY = gateway_pb2.DESCRIPTOR.services_by_name["Gateway"].full_name
_MEMBER_SERVICE = member_pb2.DESCRIPTOR.services_by_name["Member"].full_name
_PIPELINE = pipeline_pb2.DESCRIPTOR.services_by_name["Pipeline"].full_name
_RELAY = relay_pb2.DESCRIPTOR.services_by_name["Relay"].full_name
_MEMBER = re.compile(r"glmfleet://(?P<fleet>[a-z2-7]{16})/(?P<role>[a-z]+)/(?P<id>[a-z2-7]{16})")

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_END = object()  # of what a servicer yields
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def roles_for(method: str) -> tuple[str, ...]:
    """Who may call "/package.Service/Method"; empty: nobody, since a method that is not listed here was forgotten here."""
    service, _, name = method.removeprefix("/").partition("/")
    if service in (_DEVICE, _GATEWAY, _MEMBER_SERVICE):
        return ("coordinator",)
    if service == _RELAY:
        return ("device",) if name == "Carry" else ()
    # A device behind a gateway dials its neighbour as its gateway.
    neighbours = ("device", "gateway")
    return {"Generate": ("coordinator",), "Flow": neighbours, "Mirror": neighbours}.get(name, ()) if service == _PIPELINE else ()


@dataclass(frozen=True)
class Member:
    """Who a certificate says that its owner is."""

    role: str
    member_id: DeviceId
    fleet: FleetId


def members_in(names: Iterable[str]) -> list[Member]:
    """Those that the URI names of a certificate state: one, of a certificate that our authorities sign."""
    return [Member(match["role"], DeviceId(match["id"]), FleetId(match["fleet"])) for name in names if (match := _MEMBER.fullmatch(name))]


def caller_of(context: _Context) -> Member | None:
    """The member that calls, as TLS has proven it; None without TLS, and for a certificate that states not exactly one."""
    found = members_in(uri.decode(errors="replace") for uri in context.auth_context().get("peer_uri", ()))
    return found[0] if len(found) == 1 else None


class OnlyItsRole(grpc.aio.ServerInterceptor):
    """Refuses calls of members whose certificate gives them another role: a device taken over must not command the others. And those of
    revoked members, whose streams end when they are revoked.

    For servers with TLS, which has proven by then that the authority has vouched for the caller: for a member of this fleet, which the
    certificate says.
    """

    def __init__(self, revoked: Revoked, fleet: FleetId) -> None:
        self._revoked = revoked
        self._fleet = fleet

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]], details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        handler = await continuation(details)
        # Who calls is known only to the call's own context, so the check goes around the handler.
        return None if handler is None else guarded(handler, str(details.method), self._revoked, self._fleet)


def guarded(handler: _Handler, method: str, revoked: Revoked, fleet: FleetId) -> _Handler:
    """The handler of `method`, for callers that have a role for it alone, and while they are not revoked."""
    (kind,) = [kind for kind in _KINDS if getattr(handler, kind)]
    serve = getattr(handler, kind)
    allowed = roles_for(method)

    def checked(context: _Context) -> DeviceId:
        caller = caller_of(context)
        ours = caller is not None and caller.fleet == fleet
        if caller is None or not ours or caller.role not in allowed:
            who = f"a {caller.role}" if caller and ours else "nobody of the fleet"
            raise Denied(f"{method.rpartition('/')[2]} is for {_either(allowed)}; the caller is {who}")
        return caller.member_id

    async def answer(request: Any, context: _Context) -> Any:
        async with _refusing(context), revoked.unless(checked(context)):
            return await serve(request, context)

    async def answers(request: Any, context: _Context) -> AsyncIterator[Any]:
        async with _refusing(context), aclosing(serve(request, context)) as items:
            caller = checked(context)
            while True:
                # Not around the yield: there gRPC sends, and would end the call without a status for its caller.
                async with revoked.unless(caller):
                    item = await anext(items, _END)
                if item is _END:
                    return
                yield item

    make = getattr(grpc, f"{kind}_rpc_method_handler")
    wrapped: _Handler = make(
        answers if inspect.isasyncgenfunction(serve) else answer, handler.request_deserializer, handler.response_serializer
    )
    return wrapped


@asynccontextmanager
async def _refusing(context: _Context) -> AsyncIterator[None]:
    """Around a guarded call: a refusal becomes the call's status. What the servicer raises, it has made a status of itself."""
    try:
        yield
    except Denied:
        async with answered(context):
            raise


def _either(roles: tuple[str, ...]) -> str:
    return f"a {' or '.join(roles)}" if roles else "nobody"
