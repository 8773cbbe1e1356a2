"""Boards that ask to be of the fleet: who they are, and taking them in, by an operator's word or by a token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from fleet.background import Background, set_within
from fleet.devices.discovery import FoundBy
from fleet.devices.hearsay import Hearsay
from fleet.enrolling.board import Application, Board, connected
from fleet.enrolling.views import EnrolmentView, TokenView
from fleet.trust.authority import Authority
from fleet.trust.tokens import Tokens
from protos.enrolment import Refusal, TokenRefused, authority_hash, refusal_text, words
from protos.errors import Conflict, FleetError, NotFound, TimedOut, Unavailable
from protos.ids import DeviceId
from protos.v1 import enrolment_pb2 as pb

MOST_PENDING = 256  # boards that are remembered: anybody can announce thousands
MOST_OF_A_HOST = 32
MOST_ADDRESSES = 16  # of one
LOOKS_AT_ONCE = 4
LOOK_AGAIN_SECONDS = 60.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 2.0, 60.0  # after a look that failed
MOST_FAILURES = 6  # in a row, after which it is forgotten until it announces itself anew

_REASONS: dict[Refusal, pb.Refusal.Reason] = {
    "unknown": pb.Refusal.REASON_UNKNOWN,
    "expired": pb.Refusal.REASON_EXPIRED,
    "used": pb.Refusal.REASON_USED,
    "forged": pb.Refusal.REASON_FORGED,
}
EXPELLED_DETAIL = "it was expelled from this fleet: `glmfleet device leave --wipe` there makes it a new board"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pending:
    """A board that answered: `detail` says why it was not taken in by its token."""

    application: Application
    address: str
    found_by: FoundBy
    detail: str = ""
    reason: str = ""


class Enrolment:
    """An async context manager. Boards come by `heard`; `taken(device, address, found_by)` is told of each that joined."""

    def __init__(
        self,
        authority: Authority,
        tokens: Tokens,
        taken: Callable[[DeviceId, str, FoundBy], None],
        *,
        near: Callable[[str], bool] = lambda _host: True,
    ) -> None:
        """`near` as of Hearsay."""
        self._authority = authority
        self._tokens = tokens
        self._taken = taken
        self._news: dict[str, asyncio.Event] = {}  # by the same keys: it was heard of again
        self._heard: dict[str, tuple[str, ...]] = {}  # addresses, by id where that was said, else by the first of them
        self._pending: dict[DeviceId, Pending] = {}
        self._rejected: set[DeviceId] = set()
        self._joining: set[DeviceId] = set()
        self._gate = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._hearsay: Hearsay[str] = Hearsay(self._who_is_at, near=near)  # by the same keys: boards that have not answered yet
        self._background = Background()

    async def __aenter__(self) -> Self:
        await self._hearsay.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._hearsay.__aexit__(kind, error, trace)
        await self._background.__aexit__(kind, error, trace)

    def heard(self, board: DeviceId | None, addresses: tuple[str, ...], found_by: FoundBy) -> None:
        """A board without a fleet is said to be at one of these addresses ("host:port"). A hint: it is asked who it is, and remembered once
        it has answered. What people name is asked at once, what was announced when it has its turn."""
        key = board or addresses[0]
        known = self._heard.get(key)
        if known is None and found_by == "mdns":
            self._hearsay.heard(key, addresses)
            return
        self._follow(key, board, addresses, found_by)

    def _follow(self, key: str, board: DeviceId | None, addresses: tuple[str, ...], found_by: FoundBy) -> None:
        known = self._heard.get(key)
        # What was heard before stays beside it: anybody can announce another address for a board.
        self._heard[key] = tuple(dict.fromkeys([*addresses, *(known or ())]))[:MOST_ADDRESSES]
        self._news.setdefault(key, asyncio.Event()).set()
        if known is None:
            self._background.start(self._look_after(key, board, found_by), f"look at the board {key}")

    def views(self) -> list[EnrolmentView]:
        """Boards that wait for a word, by name."""
        shown = [one for board, one in self._pending.items() if board not in self._rejected]
        return sorted(map(_view, shown), key=lambda view: (view.name, view.device_id))

    async def accept(self, key: str) -> EnrolmentView:
        """Take in the board of this name, id or fingerprint. Raises NotFound, Conflict (several have that name), what the board says."""
        pending = self._find(key)
        self._rejected.discard(pending.application.board)
        async with connected([pending.address], pending.application.board) as board:
            await self._join(board, await board.apply(), pending.address, pending.found_by)
        return _view(pending)

    def reject(self, key: str) -> EnrolmentView:
        """Show it no more, until the coordinator starts anew or it is accepted by its id. Raises NotFound, Conflict."""
        pending = self._find(key)
        self._rejected.add(pending.application.board)
        return _view(pending)

    def tokens(self) -> list[TokenView]:
        """The newest first. Blocks."""
        return [TokenView(one.token_id, one.expires, one.used_by) for one in self._tokens.all()]

    def new_token(self, life_seconds: float) -> TokenView:
        """Blocks. Raises InvalidInput."""
        token, record = self._tokens.make(self._authority.public_der, life_seconds)
        return TokenView(record.token_id, record.expires, token=token.text)

    def revoke_token(self, token_id: str) -> None:
        """Blocks. Raises NotFound."""
        self._tokens.revoke(token_id)

    async def _who_is_at(self, address: str, claims: tuple[str, ...], seconds: float) -> Collection[str]:
        """Those of the keys that are true of it. Raises FleetError."""
        if self._is_full(address):
            raise Unavailable(f"{address}: too many boards ask to join")
        try:
            async with asyncio.timeout(seconds), connected([address]) as found:
                board = found.board
        except TimeoutError as error:
            raise TimedOut(f"{address} did not answer within {seconds:g} s") from error
        for key in (true := [key for key in claims if key in (board, address)]):
            addresses = dict.fromkeys([address, *self._hearsay.addresses(key)])
            self._follow(key, board if key == board else None, tuple(addresses), "mdns")
        return true

    def _is_full(self, address: str) -> bool:
        """A machine can answer as many boards: it has its share."""
        host = address.rpartition(":")[0]
        of_this = sum(host == known[0].rpartition(":")[0] for known in self._heard.values())
        return len(self._heard) >= MOST_PENDING or of_this >= MOST_OF_A_HOST

    async def _look_after(self, key: str, expected: DeviceId | None, found_by: FoundBy) -> None:
        """Until it was taken in, or is not to be found any more."""
        failures, seen, news = 0, expected, self._news[key]
        try:
            while failures < MOST_FAILURES:
                news.clear()
                try:
                    seen, done = await self._look_at_one_of(self._heard[key], seen, found_by)
                except FleetError as error:
                    failures += 1
                    _log.debug("the board %s: %s", key, error.detail)
                    await self._rest(news, min(FIRST_WAIT_SECONDS * 2.0 ** (failures - 1), LONGEST_WAIT_SECONDS))
                    continue
                if done:
                    break
                failures = 0
                await self._rest(news, LOOK_AGAIN_SECONDS)
        finally:  # whatever a stranger made of it: it is looked at again when it is heard of again
            if seen is not None:
                self._pending.pop(seen, None)
            del self._heard[key], self._news[key]

    @staticmethod
    async def _rest(news: asyncio.Event, seconds: float) -> None:
        """Until it is heard of again; a little at least, since anybody can announce it again and again."""
        await asyncio.sleep(min(seconds, FIRST_WAIT_SECONDS))
        await set_within(news, seconds)

    async def _look_at_one_of(self, addresses: tuple[str, ...], expected: DeviceId | None, found_by: FoundBy) -> tuple[DeviceId, bool]:
        """Who answers first and is who it is said to be, and whether it was taken in. Raises FleetError."""
        async with self._gate, connected(addresses, expected) as board:
            return board.board, await self._look(board, board.peer.address, found_by)

    async def _look(self, board: Board, address: str, found_by: FoundBy) -> bool:
        """Whether it was taken in."""
        application = await board.apply()
        detail = reason = ""
        if application.returns_to:
            detail = await asyncio.to_thread(self._why_not_back, application)
            if not detail:
                await self._join(board, application, address, found_by)
                return True
        elif application.token_key:
            try:
                verdict = await asyncio.to_thread(
                    self._tokens.use, application.token_key, application.token_signature, application.board, application.nonce
                )
                if verdict == "good":
                    await self._join(board, application, address, found_by)
                    return True
                refused = TokenRefused(verdict)
                detail, reason = refused.detail, refused.reason
                await self._tell(board, application, _REASONS[verdict])
            except FleetError as error:
                detail = f"its token was of no use: {error.detail}"
        known = self._pending.get(application.board)
        self._pending[application.board] = Pending(application, address, found_by, detail, reason)
        if detail and (known is None or known.detail != detail):
            _log.warning("%s at %s asks to join: %s", application.name, address, detail)
        return False

    async def _tell(self, board: Board, application: Application, reason: pb.Refusal.Reason) -> None:
        """So that its own screen says it, too."""
        signature = self._authority.signature(refusal_text(board.board, application.token_key, reason))
        with suppress(FleetError):
            await board.refuse(pb.Refusal(reason=reason, authority=self._authority.certificate_pem, signature=signature))

    def _why_not_back(self, application: Application) -> str:
        """Why a board whose certificate has expired is given no other; "" when it is: it was of the fleet, and was not expelled. Blocks."""
        if application.returns_to != authority_hash(self._authority.public_der):
            return "it is a member of another fleet, with a certificate that has expired"
        known = self._authority.members.find(application.board)
        if known is None or known.role != "device":
            return "it says that it is of this fleet, which does not know it"
        return EXPELLED_DETAIL if known.revoked else ""

    async def _join(self, board: Board, application: Application, address: str, found_by: FoundBy) -> None:
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
        found = [one for one in self._pending.values() if _is_proven(one, key)]
        # A name is the board's own word, and may be the words of another's fingerprint: it counts only where nothing that is proven does.
        named = [one for one in self._pending.values() if one.application.name == key]
        found = found or [one for one in named if one.application.board not in self._rejected] or named
        if not found:
            known = ", ".join(view.name for view in self.views()[:20])
            raise NotFound(
                f"no board {key[:80]!r} asks to join",
                advice=f"those that do: {known}" if known else "none does: run `glmfleet device run` on it",
            )
        if len(found) > 1:
            which = "; ".join(f"{one.application.board} ({words(one.application.board)})" for one in found)
            raise Conflict(f"{len(found)} boards are called {key[:80]!r}", advice=f"say which by its id: {which}")
        return found[0]


def _is_proven(one: Pending, key: str) -> bool:
    """Whether it is the board of this id or fingerprint."""
    return key == one.application.board or " ".join(key.lower().split()) == words(one.application.board)


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
        reason=one.reason,
    )
