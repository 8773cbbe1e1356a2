"""Boards that ask to be of the fleet: who they are, and taking them in, by an operator's word or by a token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from fleet.background import Background
from fleet.devices.board import Application, Board, connected
from fleet.devices.views import EnrolmentView
from fleet.trust.authority import Authority
from fleet.trust.tokens import Tokens, Verdict
from protos.enrolment import words
from protos.errors import Conflict, Denied, FleetError, NotFound
from protos.ids import DeviceId

MOST_PENDING = 256  # boards that are remembered: anybody can announce thousands
LOOKS_AT_ONCE = 4
LOOK_AGAIN_SECONDS = 60.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 2.0, 60.0  # after a look that failed
MOST_FAILURES = 6  # in a row, after which it is forgotten until it announces itself anew

_REFUSED: dict[Verdict, str] = {
    "unknown": "its token is not one of this fleet",
    "expired": "its token has expired",
    "used": "its token was used by another board",
    "forged": "its token's proof is false",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pending:
    """A board that answered: `detail` says why it was not taken in by its token."""

    application: Application
    address: str
    found_by: str
    detail: str = ""


class Enrolment:
    """An async context manager. Boards come by `heard`; `taken(device, address, found_by)` is told of each that joined."""

    def __init__(self, authority: Authority, tokens: Tokens, taken: Callable[[DeviceId, str, str], None]) -> None:
        self._authority = authority
        self._tokens = tokens
        self._taken = taken
        self._looking: dict[str, asyncio.Task[None]] = {}  # by address
        self._pending: dict[DeviceId, Pending] = {}
        self._rejected: set[DeviceId] = set()
        self._joining: set[DeviceId] = set()
        self._gate = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._background = Background()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._background.__aexit__(kind, error, trace)

    def heard(self, address: str, found_by: str) -> None:
        """A board without a fleet is said to be at "host:port". A hint: it is asked who it is. Beyond `MOST_PENDING` it is passed over."""
        if address not in self._looking and len(self._looking) < MOST_PENDING:
            self._looking[address] = self._background.start(self._look_after(address, found_by), f"look at the board at {address}")

    def views(self) -> list[EnrolmentView]:
        """Boards that wait for a word, by name."""
        return sorted((_view(one) for one in self._pending.values()), key=lambda view: (view.name, view.device_id))

    async def accept(self, key: str) -> EnrolmentView:
        """Take in the board of this name, id or fingerprint. Raises NotFound, Conflict (several have that name), what the board says."""
        pending = self._find(key)
        self._rejected.discard(pending.application.board)
        async with connected(pending.address) as board:
            if board.board != pending.application.board:
                raise Denied(f"another board answers at {pending.address} now", advice="look at `glmfleet devices` again")
            await self._join(board, await board.apply(), pending.address, pending.found_by)
        return _view(pending)

    def reject(self, key: str) -> EnrolmentView:
        """Show it no more, until the coordinator starts anew or it is accepted by its id. Raises NotFound, Conflict."""
        pending = self._find(key)
        self._rejected.add(pending.application.board)
        del self._pending[pending.application.board]
        return _view(pending)

    async def _look_after(self, address: str, found_by: str) -> None:
        failures = 0
        seen: DeviceId | None = None
        while failures < MOST_FAILURES:
            try:
                async with self._gate, connected(address) as board:
                    seen = board.board
                    if await self._look(board, address, found_by):
                        break
            except FleetError as error:
                failures += 1
                _log.debug("the board at %s: %s", address, error.detail)
                await asyncio.sleep(min(FIRST_WAIT_SECONDS * 2.0 ** (failures - 1), LONGEST_WAIT_SECONDS))
                continue
            failures = 0
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        if seen is not None and (known := self._pending.get(seen)) is not None and known.address == address:
            del self._pending[seen]
        self._looking.pop(address, None)

    async def _look(self, board: Board, address: str, found_by: str) -> bool:
        """Whether it was taken in."""
        application = await board.apply()
        pending = Pending(application, address, found_by)
        if application.token_key:
            verdict = await asyncio.to_thread(
                self._tokens.use, application.token_key, application.token_signature, application.board, application.nonce
            )
            if verdict == "good":
                await self._join(board, application, address, found_by)
                return True
            pending = replace(pending, detail=_REFUSED[verdict])
            if application.board not in self._pending:
                _log.warning("%s at %s asks to join: %s", application.name, address, pending.detail)
        if application.board not in self._rejected:
            self._pending[application.board] = pending
        return False

    async def _join(self, board: Board, application: Application, address: str, found_by: str) -> None:
        if board.board in self._joining:
            raise Conflict(f"{application.name} is being taken in")
        self._joining.add(board.board)
        try:
            certificate = await asyncio.to_thread(self._authority.sign, application.signing_request, "device", board.board)
            await board.join(certificate, self._authority.certificate_pem)
        finally:
            self._joining.discard(board.board)
        self._pending.pop(board.board, None)
        _log.info("%s (%s) at %s joined the fleet", application.name, board.board, address)
        self._taken(board.board, address, found_by)

    def _find(self, key: str) -> Pending:
        wanted = " ".join(key.lower().split())
        found = [one for one in self._pending.values() if _is_named(one, key, wanted)]
        if not found:
            known = ", ".join(view.name for view in self.views()[:20])
            raise NotFound(f"no board {key!r} asks to join", advice=f"those that do: {known}" if known else "none does: glmfleet doctor")
        if len(found) > 1:
            ids = ", ".join(one.application.board for one in found)
            raise Conflict(f"{len(found)} boards are called {key!r}", advice=f"say which by its id: {ids}")
        return found[0]


def _is_named(one: Pending, key: str, wanted: str) -> bool:
    return key in (one.application.name, one.application.board) or wanted == words(one.application.board)


def _view(one: Pending) -> EnrolmentView:
    application = one.application
    return EnrolmentView(
        device_id=application.board,
        name=application.name,
        fingerprint=words(application.board),
        address=one.address,
        profile=application.profile,
        agent_version=application.agent_version,
        found_by=one.found_by,
        detail=one.detail,
    )
