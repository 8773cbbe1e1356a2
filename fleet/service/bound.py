"""The fleet's calls as one caller makes them: with the rights that it has, within its budget, and in the audit log."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Protocol, cast

from fleet.answering.views import GenerateRequest, GenerateResult, TokenChunk
from fleet.principal import Principal
from fleet.service.changes import arguments_of, state_after, state_before
from fleet.service.protocol import FleetService
from fleet.service.rights import RULES, rule_for
from protos.errors import Denied, FleetError
from protos.rpc_errors import as_fleet_error

CALLS = frozenset(name for name in vars(FleetService) if not name.startswith("_"))
CHARACTERS_A_TOKEN = 4  # of a prompt whose tokens nobody has counted, since its client left before the end

_log = logging.getLogger(__name__)


class Audit(Protocol):
    """Where changes are written down. Raises FleetError when that cannot be: then there is no change."""

    async def write(
        self,
        who: Principal,
        call: str,
        outcome: str,
        arguments: Mapping[str, object] = ...,
        *,
        of: int | None = None,
        before: str = "",
        after: str = "",
        detail: str = "",
    ) -> int: ...


class Budget(Protocol):
    """What the holder of a key may still use. Raises Unauthenticated, OverBudget."""

    def check(self, key_id: str) -> None: ...

    def still_good(self, key_id: str) -> None: ...

    def spend(self, key_id: str, tokens: int) -> None: ...


def bound(service: FleetService, caller: Principal, audit: Audit, budget: Budget) -> FleetService:
    """`service`, each of whose calls is known to be the caller's."""
    return cast(FleetService, _Bound(service, caller, audit, budget))


class _Bound:
    """Passes on the calls of FleetService that its caller may make, and nothing else."""

    def __init__(self, service: FleetService, caller: Principal, audit: Audit, budget: Budget) -> None:
        self._service = service
        self._caller = caller
        self._audit = audit
        self._budget = budget

    def __getattr__(self, call: str) -> Any:
        if call not in CALLS:
            raise AttributeError(f"FleetService has no call {call}")
        try:
            rule = rule_for(self._caller, call)
        except Denied as error:
            return self._refused(call, error)
        _log.debug("%s (%s) calls %s", self._caller.name, self._caller.role, call)
        method = getattr(self._service, call)
        if call == "generate" and self._caller.key_id:
            return self._metered
        if not rule.changes:
            return method
        return self._recorded_stream(call, method) if inspect.isasyncgenfunction(method) else self._recorded(call, method)

    def _refused(self, call: str, error: Denied) -> Callable[..., Any]:
        """In the form that the call has, since it is awaited or iterated."""
        if inspect.isasyncgenfunction(getattr(self._service, call)):

            async def stream(*given: Any, **named: Any) -> AsyncGenerator[Any]:
                await self._write_refused(call, given, named, error)
                yield _raise(error)

            return stream
        if inspect.iscoroutinefunction(getattr(self._service, call)):

            async def answer(*given: Any, **named: Any) -> Any:
                await self._write_refused(call, given, named, error)
                raise error

            return answer
        raise error

    async def _write_refused(self, call: str, given: tuple[Any, ...], named: Mapping[str, Any], error: Denied) -> None:
        """Of whoever has a key: what strangers try is no end of lines."""
        if changes(call) and self._caller.role != "anyone":
            await self._audit.write(self._caller, call, "refused", arguments_of(call, given, named), detail=error.detail)

    def _recorded(self, call: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(*given: Any, **named: Any) -> Any:
            change = await _Change.begin(self, call, arguments_of(call, given, named))
            try:
                result = await method(*given, **named)
            except BaseException as error:
                await change.end(error)
                raise
            await change.end(result=result)
            return result

        return answer

    def _recorded_stream(self, call: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def stream(*given: Any, **named: Any) -> AsyncGenerator[Any]:
            change = await _Change.begin(self, call, arguments_of(call, given, named))
            parts = method(*given, **named)
            try:
                try:
                    async for part in parts:
                        yield part
                finally:
                    await parts.aclose()
            except BaseException as error:
                await change.end(error)
                raise
            await change.end()

        return stream

    async def _metered(self, request: GenerateRequest) -> AsyncIterator[TokenChunk | GenerateResult]:
        """What a request computes is counted for its key, whose end ends the answer."""
        key, tokens, left = self._caller.key_id, 0, True
        self._budget.check(key)
        parts = self._service.generate(request)
        try:
            async for part in parts:
                self._budget.still_good(key)
                tokens = tokens + len(part.token_ids) if isinstance(part, TokenChunk) else part.prompt_tokens + part.completion_tokens
                left = left and isinstance(part, TokenChunk)
                yield part
        except FleetError:
            left = False
            raise
        finally:
            await parts.aclose()  # type: ignore[attr-defined]
            self._budget.spend(key, tokens + (_estimate(request) if left else 0))


class _Change:
    """One change, from before to after."""

    def __init__(self, of: int, caller: _Bound, call: str, arguments: Mapping[str, object], before: str) -> None:
        self._of = of
        self._who, self._audit, self._service = caller._caller, caller._audit, caller._service
        self._call, self._arguments, self._before = call, arguments, before
        self._ending: asyncio.Task[None] | None = None

    @classmethod
    async def begin(cls, caller: _Bound, call: str, arguments: Mapping[str, object]) -> _Change:
        """Raises FleetError when it cannot be written down."""
        before = await state_before(caller._service, call, arguments)
        of = await caller._audit.write(caller._caller, call, "begun", arguments, before=before)
        return cls(of, caller, call, arguments, before)

    async def end(self, error: BaseException | None = None, result: object = None) -> None:
        """The change is made, whatever becomes of this line; it is written also when the caller has left meanwhile."""
        self._ending = asyncio.create_task(self._end(error, result))
        await asyncio.shield(self._ending)

    async def _end(self, error: BaseException | None, result: object) -> None:
        outcome = "done" if error is None else "failed" if isinstance(error, Exception) else "broken off"
        detail = as_fleet_error(error).detail if isinstance(error, Exception) else ""
        try:
            after = await state_after(self._service, self._call, self._arguments, result)
            await self._audit.write(self._who, self._call, outcome, of=self._of, before=self._before, after=after, detail=detail)
        except FleetError as unwritten:
            _log.error("the audit log lacks how line %d ended (%s): %s", self._of, outcome, unwritten.detail)


def changes(call: str) -> bool:
    """Whether the audit log has it."""
    return call in RULES and RULES[call].changes


def _raise(error: FleetError) -> Any:
    raise error


def _estimate(request: GenerateRequest) -> int:
    """Of the prompt's tokens."""
    texts = [request.prompt or "", request.text or "", *request.tools, *(message.content for message in request.messages)]
    return len(request.prompt_ids) + sum(map(len, texts)) // CHARACTERS_A_TOKEN
