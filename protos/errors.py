"""One tree of errors, its mapping to gRPC status, and the way back.

FleetError
├── TemporaryError          trying again may help
│   ├── Unavailable         nobody answers, or a link ended
│   ├── Busy                full for now: come back after `retry_after_seconds`
│   └── TimedOut
└── PermanentError          trying the same again will not help
    ├── InvalidInput
    ├── NotFound
    ├── Conflict            another generation, epoch or artifact is in force
    ├── NoSpace             memory or disk too small
    ├── Corrupt             bytes are not what their digest says
    ├── Denied              identity or rights
    └── Internal            a defect of ours

Programs read the class and the fields, never the text.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from protos import route as routes
from protos.ids import Digest, parse_digest
from protos.link_failure import LinkFailure, link_failure
from protos.route import Hop, Route
from protos.v1 import pipeline_pb2

RETRY_AFTER_KEY = "glmfleet-retry-after"
CODE_KEY = "glmfleet-error"
ADVICE_KEY = "glmfleet-advice-bin"  # binary: advice may name what is not ASCII
ROUTE_KEY = "glmfleet-route-bin"  # a pipeline.proto Route
DIGEST_KEY = "glmfleet-digest"
LONGEST_RETRY_AFTER_SECONDS = 60.0  # whatever the far side says
DETAIL_LENGTH = 1000  # the whole of a call's metadata has 8 KiB

_log = logging.getLogger(__name__)


class FleetError(Exception):
    """Root. `cause` is one line: what is wrong; `advice` one line: what to do, or "".

    `route`: the devices that it came through. `digest`: of the blob that it is about. `link_failure`: why gRPC had no link; None where it
    was not gRPC that said so.

    >>> str(NotFound("no blob 1f2e").at(Hop("dev-2", stage=1)).at("dev-1"))
    'dev-1: stage 1 on dev-2: no blob 1f2e'
    """

    status = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        cause: str,
        *,
        advice: str = "",
        retry_after_seconds: float = 0.0,
        route: Route = (),
        digest: Digest | None = None,
        link_failure: LinkFailure | None = None,
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.advice = advice
        self.retry_after_seconds = retry_after_seconds
        self.route = route
        self.digest = digest
        self.link_failure = link_failure

    @property
    def detail(self) -> str:
        """One line: the route, then the cause."""
        return routes.in_words(self.route) + self.cause

    def __str__(self) -> str:
        return self.detail

    def at(self, where: Hop | str) -> Self:
        """The same error with one more hop in front of its route; a string is a device's id or name."""
        return self._with_route((where if isinstance(where, Hop) else Hop(where), *self.route))

    def named(self, names: Mapping[str, str]) -> Self:
        """The same error with the names of the devices whose ids `names` knows."""
        return self._with_route(routes.named(self.route, names))

    def _with_route(self, route: Route) -> Self:
        changed = copy.copy(self)
        changed.route = route
        return changed


class TemporaryError(FleetError):
    pass


class Unavailable(TemporaryError):
    status = grpc.StatusCode.UNAVAILABLE


class Busy(TemporaryError):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class TimedOut(TemporaryError):
    status = grpc.StatusCode.DEADLINE_EXCEEDED


class PermanentError(FleetError):
    pass


class InvalidInput(PermanentError):
    status = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(PermanentError):
    status = grpc.StatusCode.NOT_FOUND


class Conflict(PermanentError):
    status = grpc.StatusCode.FAILED_PRECONDITION


class NoSpace(PermanentError):
    status = grpc.StatusCode.OUT_OF_RANGE


class Corrupt(PermanentError):
    status = grpc.StatusCode.DATA_LOSS


class Denied(PermanentError):
    status = grpc.StatusCode.PERMISSION_DENIED


class Internal(PermanentError):
    status = grpc.StatusCode.INTERNAL


LEAVES: tuple[type[FleetError], ...] = (
    Unavailable,
    Busy,
    TimedOut,
    InvalidInput,
    NotFound,
    Conflict,
    NoSpace,
    Corrupt,
    Denied,
    Internal,
)
_BY_NAME = {leaf.__name__: leaf for leaf in LEAVES}
_BY_STATUS = {leaf.status: leaf for leaf in LEAVES}
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
_NOT_ITS_OWN = {leaf.status for leaf in (InvalidInput, NotFound, Conflict, NoSpace, Corrupt)}


def by_name(name: str, cause: str, *, retry_after_seconds: float = 0.0) -> FleetError:
    """The error of class `name`; Internal when the name is not one of ours."""
    return _BY_NAME.get(name, Internal)(cause, retry_after_seconds=_bounded(retry_after_seconds))


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
    kind = _BY_NAME.get(texts.get(CODE_KEY, "")) or _BY_STATUS.get(error.code(), Internal)
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
        return _bounded(float(text))
    except ValueError:
        return 0.0


def _bounded(retry_after_seconds: float) -> float:
    if math.isnan(retry_after_seconds):
        return 0.0
    return min(max(0.0, retry_after_seconds), LONGEST_RETRY_AFTER_SECONDS)


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
            await self._context.abort(error.status, detail[:DETAIL_LENGTH], _trailing(error, route))
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            _log.error("a defect, while answering a call", exc_info=error)
            told = as_fleet_error(error)
            await self._context.abort(told.status, told.detail[:DETAIL_LENGTH], ((CODE_KEY, type(told).__name__),))
