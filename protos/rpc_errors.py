"""How errors cross gRPC: each class has its status, and metadata carries what a status has no place for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from protos import route_messages as routes
from protos.errors import (
    BY_NAME,
    Busy,
    Conflict,
    Corrupt,
    Denied,
    FleetError,
    Internal,
    InvalidInput,
    NoSpace,
    NotFound,
    TimedOut,
    Unavailable,
    bounded,
    by_name,
)
from protos.ids import Digest, parse_digest
from protos.link_failure import link_failure
from protos.route import Hop
from protos.sparing import Sparing
from protos.v1 import pipeline_pb2

RETRY_AFTER_KEY = "glmfleet-retry-after"
CODE_KEY = "glmfleet-error"
ADVICE_KEY = "glmfleet-advice-bin"  # binary: advice may name what is not ASCII
ROUTE_KEY = "glmfleet-route-bin"  # a pipeline.proto Route
DIGEST_KEY = "glmfleet-digest"
DETAIL_LENGTH = 1000  # the whole of a call's metadata has 8 KiB

_log = logging.getLogger(__name__)
_defect = Sparing(_log)

STATUS: dict[type[FleetError], grpc.StatusCode] = {
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Busy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    NoSpace: grpc.StatusCode.OUT_OF_RANGE,
    Corrupt: grpc.StatusCode.DATA_LOSS,
    Denied: grpc.StatusCode.PERMISSION_DENIED,
    Internal: grpc.StatusCode.INTERNAL,
}
_BY_STATUS = {status: leaf for leaf, status in STATUS.items()}
# What gRPC itself says when nobody of ours answered.
_BY_STATUS[grpc.StatusCode.UNAUTHENTICATED] = Denied
_BY_STATUS[grpc.StatusCode.UNIMPLEMENTED] = Conflict
_BY_STATUS[grpc.StatusCode.CANCELLED] = Unavailable
_BY_STATUS[grpc.StatusCode.UNKNOWN] = Internal
# In our words: gRPC's own ("Locally cancelled by application!") are written for those who program with it.
_SAID = {
    grpc.StatusCode.CANCELLED: "the call was broken off",
    grpc.StatusCode.DEADLINE_EXCEEDED: "no answer in time",
    grpc.StatusCode.UNAVAILABLE: "nobody of glmfleet answers there, or it is stopping",
    grpc.StatusCode.UNIMPLEMENTED: "it does not know this call: another version of glmfleet runs there",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "it has no room for the message, or the message is too long",
    grpc.StatusCode.UNAUTHENTICATED: "it does not know who calls",
    grpc.StatusCode.PERMISSION_DENIED: "it refuses the call",
    grpc.StatusCode.UNKNOWN: "it failed without saying why; its log may tell",
}
_SAID_OTHERWISE = "the call failed inside gRPC"
# gRPC never makes these itself (its document statuscodes.md): the text is ours, of a release that did not yet name the class everywhere.
_NOT_ITS_OWN = {STATUS[leaf] for leaf in (InvalidInput, NotFound, Conflict, NoSpace, Corrupt)}


def status_of(error: FleetError) -> grpc.StatusCode:
    return STATUS.get(type(error), grpc.StatusCode.UNKNOWN)


def to_failure(error: FleetError) -> pipeline_pb2.Failure:
    """The error as a message, to be read by `from_failure`."""
    route, detail = routes.to_message(error.route, error.cause)
    return pipeline_pb2.Failure(code=type(error).__name__, detail=detail, retry_after_seconds=error.retry_after_seconds, route=route)


def from_failure(failure: pipeline_pb2.Failure) -> FleetError:
    """Without the route, where it comes from the release before: that has it in words only, in front of the cause."""
    route, cause = routes.from_message(failure.route, failure.detail)
    error = by_name(failure.code, cause, retry_after_seconds=failure.retry_after_seconds)
    error.route = route
    return error


# What grpc.aio puts over the far side's status when a write finds the call ended before that status was read.
ENDED_UNDER_A_WRITE = "Internal error from Core"


def from_rpc(error: grpc.aio.AioRpcError) -> FleetError:
    """What the far side said, or in our words what gRPC did: its own are for the debug log."""
    if error.code() is grpc.StatusCode.INTERNAL and error.details() == ENDED_UNDER_A_WRITE:
        return Unavailable("the link ended")
    metadata = dict(error.trailing_metadata() or ())
    texts = {key: value.decode(errors="replace") if isinstance(value, bytes) else str(value) for key, value in metadata.items()}
    kind = BY_NAME.get(texts.get(CODE_KEY, "")) or _BY_STATUS.get(error.code(), Internal)
    detail = error.details() or ""
    if CODE_KEY not in texts:
        _log.debug("gRPC says: %s: %s", error.code().name, detail)
        # It also calls a stream "removed" whose time was up.
        failure = None if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else link_failure(detail)
        if error.code() in _NOT_ITS_OWN and detail:
            return kind(detail)
        return kind(failure.value if failure else _SAID.get(error.code(), _SAID_OTHERWISE), link_failure=failure)
    route, cause = routes.from_bytes(_bytes(metadata.get(ROUTE_KEY)), detail)
    return kind(
        cause,
        advice=texts.get(ADVICE_KEY, ""),
        retry_after_seconds=_retry_after(texts.get(RETRY_AFTER_KEY, "0")),
        route=route,
        digest=_digest(texts.get(DIGEST_KEY, "")),
    )


def as_fleet_error(error: Exception) -> FleetError:
    """What `error` is told as, whatever it is: a call's failure that nobody named in our words, anything else as a defect, in one line."""
    if isinstance(error, FleetError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        return from_rpc(error)
    return Internal(f"{type(error).__name__}: {error}".splitlines()[0])


def _trailing(error: FleetError, route: pipeline_pb2.Route) -> tuple[tuple[str, str | bytes], ...]:
    required: tuple[tuple[str, str | bytes], ...] = (
        (CODE_KEY, type(error).__name__),
        (RETRY_AFTER_KEY, f"{error.retry_after_seconds:g}"),
        (ADVICE_KEY, error.advice[:DETAIL_LENGTH].encode()),
    )
    optional = ((ROUTE_KEY, route.SerializeToString() if error.route else None), (DIGEST_KEY, error.digest))
    return (*required, *((key, value) for key, value in optional if value is not None))


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def _digest(text: str) -> Digest | None:
    try:
        return parse_digest(text)
    except ValueError:
        return None


def _retry_after(text: str) -> float:
    try:
        return bounded(float(text))
    except ValueError:
        return 0.0


@contextmanager
def remote(where: Hop | str) -> Iterator[None]:
    """Around a client's call: gRPC's error becomes ours, and the device that was called the first on its route."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error).at(where) from error
    except grpc.aio.UsageError as error:  # the channel was closed before the call
        raise Unavailable("the connection was closed").at(where) from error
    except asyncio.CancelledError as error:
        # grpc.aio also raises it in whoever awaits a call when somebody else closes the channel: nobody cancelled this task then,
        # and a TaskGroup would take the call for done.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Unavailable("the connection was closed").at(where) from error


class answered:  # noqa: N801 (reads as a word: `async with answered(context)`)
    """Around a servicer's body: our error becomes a gRPC status; anything else is logged and becomes Internal, no traceback on the wire."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, FleetError):
            route, detail = routes.to_message(error.route, error.cause)
            await self._context.abort(status_of(error), detail[:DETAIL_LENGTH], _trailing(error, route))
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            _defect(logging.ERROR, "a defect, while answering a call", error=error)  # who calls can make it happen again and again
            told = as_fleet_error(error)
            await self._context.abort(status_of(told), told.detail[:DETAIL_LENGTH], ((CODE_KEY, type(told).__name__),))
