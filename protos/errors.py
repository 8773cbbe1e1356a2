"""One tree of errors.

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

Programs read the class and the fields, never the text. How they cross gRPC: `protos/rpc_errors.py`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Self

from protos import route as routes
from protos.ids import Digest
from protos.link_failure import LinkFailure
from protos.route import Hop, Route

LONGEST_RETRY_AFTER_SECONDS = 60.0  # whatever the far side says


class FleetError(Exception):
    """Root. `cause` is one line: what is wrong; `advice` one line: what to do, or "".

    `route`: the devices that it came through. `digest`: of the blob that it is about. `link_failure`: why gRPC had no link; None where it
    was not gRPC that said so.

    >>> str(NotFound("no blob 1f2e").at(Hop("dev-2", stage=1)).at("dev-1"))
    'dev-1: stage 1 on dev-2: no blob 1f2e'
    """

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
    pass


class Busy(TemporaryError):
    pass


class TimedOut(TemporaryError):
    pass


class PermanentError(FleetError):
    pass


class InvalidInput(PermanentError):
    pass


class NotFound(PermanentError):
    pass


class Conflict(PermanentError):
    pass


class NoSpace(PermanentError):
    pass


class Corrupt(PermanentError):
    pass


class Denied(PermanentError):
    pass


class Internal(PermanentError):
    pass


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
BY_NAME = {leaf.__name__: leaf for leaf in LEAVES}


def by_name(name: str, cause: str, *, retry_after_seconds: float = 0.0) -> FleetError:
    """The error of class `name`; Internal when the name is not one of ours."""
    return BY_NAME.get(name, Internal)(cause, retry_after_seconds=bounded(retry_after_seconds))


def bounded(retry_after_seconds: float) -> float:
    """Seconds that may be waited, whatever was said."""
    if math.isnan(retry_after_seconds):
        return 0.0
    return min(max(0.0, retry_after_seconds), LONGEST_RETRY_AFTER_SECONDS)
