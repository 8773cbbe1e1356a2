"""Every request from its acceptance to its end, in one place."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from fleet.answering.views import GenerateRequest, RequestView
from fleet.telemetry.views import FinishReason
from protos.errors import Busy, FleetError, NotFound, TemporaryError
from protos.ids import PipelineId

OPEN_REQUESTS = 4096  # more are refused: each may hold a prompt as long as a context
ENDED_REQUESTS = 1024  # kept to be listed, without their prompts and answers
MOST_TRIES = 3  # of a request that no ring has begun
MOST_ATTEMPTS = 256


@dataclass(frozen=True)
class Accepted:
    """No pipeline has it yet."""


@dataclass(frozen=True)
class Running:
    """A pipeline computes it. `recovering`: after a break, and no token has come since."""

    pipeline_id: PipelineId
    recovering: bool = False


@dataclass(frozen=True)
class Recovering:
    """The ring that computed it broke. It goes on where it was as soon as a pipeline of its deployment answers."""


@dataclass(frozen=True)
class Ended:
    """`at` in unix seconds; `detail` says why it failed."""

    reason: FinishReason
    at: float
    detail: str = ""


RequestState: TypeAlias = Accepted | Running | Recovering | Ended


@dataclass(frozen=True)
class Attempt:
    """On one pipeline; `error` is why it failed, "" while it has not."""

    pipeline_id: PipelineId
    error: str = ""


@dataclass
class LedgerEntry:
    """One request. Changed by its own methods only; times in unix seconds. Prompt and tokens are dropped when it ends."""

    request_id: str
    request: GenerateRequest
    accepted_at: float
    deadline: float | None
    client_waits: bool = True
    ran: bool = False  # a ring was given it, and did not refuse it
    unwanted: bool = False  # cancelled, or past its deadline
    deployment: str = ""
    prompt_ids: Sequence[int] = ()
    tokens: list[int] = field(default_factory=list)  # that the client was given, forced ones included
    attempts: tuple[Attempt, ...] = ()
    state: RequestState = field(default_factory=Accepted)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    began_at: float | None = None  # by the first ring
    first_token_at: float | None = None
    now: Callable[[], float] = time.time

    @property
    def tried(self) -> frozenset[str]:
        """Ids of the pipelines that have failed it."""
        return frozenset(attempt.pipeline_id for attempt in self.attempts if attempt.error)

    def begin(self, deployment: str, pipeline_id: PipelineId, prompt_ids: Sequence[int]) -> None:
        self._check_open()
        self.deployment, self.prompt_ids, self.prompt_tokens = deployment, prompt_ids, len(prompt_ids)
        self.attempts = (*self.attempts, Attempt(pipeline_id))
        self.state = Running(pipeline_id, recovering=isinstance(self.state, Recovering))
        self.began_at = self.now() if self.began_at is None else self.began_at

    def give(self, token_ids: Sequence[int]) -> None:
        """The client was given these."""
        self._check_open()
        if isinstance(self.state, Running) and self.state.recovering:
            self.state = Running(self.state.pipeline_id)
        if token_ids and self.first_token_at is None:
            self.first_token_at = self.now()
        self.tokens.extend(token_ids)
        self.completion_tokens += len(token_ids)

    def fail(self, error: FleetError) -> bool:
        """The attempt ended with `error`. Whether another may be made: it may help, and the client still wants it."""
        self._check_open()
        begun = isinstance(self.state, Running)
        if isinstance(self.state, Running):
            self.attempts = (*self.attempts[:-1], Attempt(self.state.pipeline_id, error.detail))
        self.state = Recovering() if self.ran else Accepted()
        most = MOST_ATTEMPTS if self.ran else MOST_TRIES
        return begun and isinstance(error, TemporaryError) and not self.unwanted and len(self.attempts) < most

    def _check_open(self) -> None:
        assert not isinstance(self.state, Ended), f"request {self.request_id} has ended"

    @property
    def view(self) -> RequestView:
        ended = self.state if isinstance(self.state, Ended) else None
        running = self.state.pipeline_id if isinstance(self.state, Running) else ""
        return RequestView(
            request_id=self.request_id,
            state="recovering" if isinstance(self.state, Running) and self.state.recovering else type(self.state).__name__.lower(),
            model=self.request.model or "",
            deployment=self.deployment,
            pipeline_id=running or (self.attempts[-1].pipeline_id if self.attempts else ""),
            attempts=len(self.attempts),
            client_waits=self.client_waits,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            accepted_at=self.accepted_at,
            deadline=self.deadline,
            ended_at=ended.at if ended else None,
            finish_reason=ended.reason if ended else None,
            detail=ended.detail if ended else "",
            began_at=self.began_at,
            first_token_at=self.first_token_at,
        )


class Ledger:
    """Bounded: so many open requests, so many that have ended."""

    def __init__(
        self,
        *,
        now: Callable[[], float],
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        open_requests: int = OPEN_REQUESTS,
        ended_requests: int = ENDED_REQUESTS,
    ) -> None:
        """`now` in unix seconds."""
        self._now = now
        self._new_id = new_id
        self._most_open = open_requests
        self._open: dict[str, LedgerEntry] = {}
        self._ended: deque[LedgerEntry] = deque(maxlen=ended_requests)

    def accept(self, request: GenerateRequest) -> LedgerEntry:
        """Raises Busy when too many are open."""
        if len(self._open) >= self._most_open:
            raise Busy(f"{self._most_open:,} requests are open already", advice="ask again later", retry_after_seconds=1.0)
        now = self._now()
        deadline = None if request.timeout_seconds is None else now + request.timeout_seconds
        entry = LedgerEntry(self._new_id(), request, now, deadline, now=self._now)
        self._open[entry.request_id] = entry
        return entry

    def end(self, entry: LedgerEntry, reason: FinishReason, detail: str = "") -> None:
        """The first end counts: a client may leave a request that is failing."""
        if self._open.pop(entry.request_id, None) is None:
            return
        entry.state = Ended(reason, self._now(), detail)
        entry.request = GenerateRequest(model=entry.request.model)
        entry.prompt_ids, entry.tokens = (), []
        self._ended.append(entry)

    def find(self, request_id: str) -> LedgerEntry:
        """An open one, by its id or an unambiguous beginning of it. Raises NotFound."""
        found = [entry for key, entry in self._open.items() if request_id and key.startswith(request_id)]
        if len(found) != 1:
            several = f"{len(found)} open requests begin with" if found else "no request is open with the id"
            raise NotFound(f"{several} {request_id[:80]!r}", advice="see `glmfleet requests`")
        return found[0]

    def views(self) -> list[RequestView]:
        """Open ones first, then those that have ended, each by age, newest first."""
        return [entry.view for entry in [*reversed(self._open.values()), *reversed(self._ended)]]

    @property
    def open_requests(self) -> int:
        return len(self._open)
