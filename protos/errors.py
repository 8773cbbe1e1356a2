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

Retry policy reads the class, never the text. Each hop prefixes its device to the detail, so the message is the route.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

RETRY_AFTER_KEY = "glmfleet-retry-after"
CODE_KEY = "glmfleet-error"
ADVICE_KEY = "glmfleet-advice-bin"  # binary: advice may name what is not ASCII
LONGEST_RETRY_AFTER_SECONDS = 60.0  # whatever the far side says
DETAIL_LENGTH = 1000  # the whole of a call's metadata has 8 KiB

_log = logging.getLogger(__name__)


class FleetError(Exception):
    """Root. `detail` is one line: what is wrong; `advice` one line: what to do, or ""."""

    status = grpc.StatusCode.UNKNOWN

    def __init__(self, detail: str, *, advice: str = "", retry_after_seconds: float = 0.0) -> None:
        super().__init__(detail)
        self.detail = detail
        self.advice = advice
        self.retry_after_seconds = retry_after_seconds

    def at(self, where: str) -> FleetError:
        """The same error with one more hop on its route."""
        return type(self)(f"{where}: {self.detail}", advice=self.advice, retry_after_seconds=self.retry_after_seconds)


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


def by_name(name: str, detail: str, *, retry_after_seconds: float = 0.0) -> FleetError:
    """The error of class `name`; Internal when the name is not one of ours."""
    return _BY_NAME.get(name, Internal)(detail, retry_after_seconds=_bounded(retry_after_seconds))


# What gRPC says itself of a link, many words or odd ones, in ours.
_PLAIN = {
    "connection refused": "connection refused (nobody listens there)",
    "socket closed": "the connection broke",
    "connection reset": "the connection broke",
    "stream removed": "the connection broke",
}

# What grpc.aio puts over the far side's status when a write finds the call ended before that status was read.
ENDED_UNDER_A_WRITE = "Internal error from Core"


def from_rpc(error: grpc.aio.AioRpcError) -> FleetError:
    if error.code() is grpc.StatusCode.INTERNAL and error.details() == ENDED_UNDER_A_WRITE:
        return Unavailable("the link ended")
    metadata = {
        str(key): value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        for key, value in (error.trailing_metadata() or ())
    }
    kind = _BY_NAME.get(metadata.get(CODE_KEY, "")) or _BY_STATUS.get(error.code(), Internal)
    detail = error.details() or error.code().name.lower()
    if CODE_KEY not in metadata:
        detail = next((ours for theirs, ours in _PLAIN.items() if theirs in detail.lower()), detail)
    try:
        retry_after = _bounded(float(metadata.get(RETRY_AFTER_KEY, "0")))
    except ValueError:
        retry_after = 0.0
    return kind(detail, advice=metadata.get(ADVICE_KEY, ""), retry_after_seconds=retry_after)


def _bounded(retry_after_seconds: float) -> float:
    if math.isnan(retry_after_seconds):
        return 0.0
    return min(max(0.0, retry_after_seconds), LONGEST_RETRY_AFTER_SECONDS)


@contextmanager
def remote(where: str) -> Iterator[None]:
    """Around a client's call: gRPC's error becomes ours, with the device it came from in front."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error).at(where) from error
    except grpc.aio.UsageError as error:  # the channel was closed before the call
        raise Unavailable(f"{where}: the connection was closed") from error
    except asyncio.CancelledError as error:
        # grpc.aio also raises it in whoever awaits a call when somebody else closes the channel: nobody cancelled this task then,
        # and a TaskGroup would take the call for done.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Unavailable(f"{where}: the connection was closed") from error


class answered:  # noqa: N801 (reads as a word: `async with answered(context)`)
    """Around a servicer's body: our error becomes a gRPC status; anything else is logged and becomes Internal, no traceback on the wire."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, FleetError):
            trailing: tuple[tuple[str, str | bytes], ...] = (
                (CODE_KEY, type(error).__name__),
                (RETRY_AFTER_KEY, f"{error.retry_after_seconds:g}"),
                (ADVICE_KEY, error.advice[:DETAIL_LENGTH].encode()),
            )
            await self._context.abort(error.status, error.detail[:DETAIL_LENGTH], trailing)
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            _log.error("a defect, while answering a call", exc_info=error)
            detail = f"{type(error).__name__}: {error}"
            await self._context.abort(grpc.StatusCode.INTERNAL, detail[:DETAIL_LENGTH], ((CODE_KEY, "Internal"),))
