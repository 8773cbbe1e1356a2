"""For how long a connection to the HTTP server may be held without asking something."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import h11
from uvicorn.config import Config
from uvicorn.server import ServerState

from fleet.api.malformed import HttpProtocol
from fleet.api.places import Place, Places

_Phase: TypeAlias = Literal["", "head", "body", "rest"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """`of_all` and `of_one`: connections, as of `Places`."""

    of_all: int = 512
    of_one: int = 128
    handshake_seconds: float = 10.0
    head_seconds: float = 10.0  # until a request's head is there, from its first byte or from the connection on
    body_seconds: float = 30.0  # until its body is there, and a second more for each `body_bytes_a_second` that came
    body_bytes_a_second: int = 16 << 10
    rest_seconds: float = 5.0  # until the rest of a body is there whose request was answered
    stall_seconds: float = 60.0  # of a client that takes nothing of its answer


USUAL = Limits()


class Door:
    """What uvicorn makes a protocol of, for each connection (its setting `http`): plain, or with TLS where there is a context for it."""

    def __init__(self, limits: Limits = USUAL, tls: ssl.SSLContext | None = None) -> None:
        self.limits = limits
        self.tls = tls
        self.places = Places(limits.of_all, limits.of_one)

    def __call__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> asyncio.Protocol:
        return _Arrival(self, PacedProtocol(config, server_state, app_state, _loop, limits=self.limits))


class PacedProtocol(HttpProtocol):
    """Hangs up on whoever takes too long to ask, or to take the answer. A wait between two requests is uvicorn's matter (keep-alive)."""

    def __init__(self, *given: Any, limits: Limits = USUAL) -> None:
        super().__init__(*given)
        self.asked: Callable[[], None] = lambda: None  # told when its first request is there
        self.left: Callable[[], None] = lambda: None
        self._limits = limits
        self._phase: _Phase = ""
        self._since = 0.0
        self._came_bytes = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._came_bytes += len(data)
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self._limits.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._turn_to("")
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)
        self.left()

    def _watch(self) -> None:
        phase = self._phase_now()
        if self._phase == "head" and phase != "head":
            self.asked()
        if phase != self._phase:
            self._turn_to(phase)

    def _phase_now(self) -> _Phase:
        if self.transport.is_closing():
            return ""
        if self.conn.their_state is h11.SEND_BODY:
            return "rest" if self.cycle is not None and self.cycle.response_complete else "body"
        if self.conn.their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            return "head"
        return ""

    def _turn_to(self, phase: _Phase) -> None:
        self._phase, self._since, self._came_bytes = phase, self.loop.time(), 0
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self.loop.call_at(self._deadline(), self._on_alarm) if phase else None

    def _deadline(self) -> float:
        limits = self._limits
        match self._phase:
            case "head":
                return self._since + limits.head_seconds
            case "rest":
                return self._since + limits.rest_seconds
        return self._since + limits.body_seconds + self._came_bytes / limits.body_bytes_a_second

    def _on_alarm(self) -> None:
        if self.loop.time() < (deadline := self._deadline()):  # of the body something came meanwhile
            self._alarm = self.loop.call_at(deadline, self._on_alarm)
            return
        _log.debug("a client took too long to send its %s", self._phase)
        self.transport.abort()


class _Arrival(asyncio.Protocol):
    """A connection until it is let in, and until its TLS handshake is done. What comes with the handshake's last message is kept."""

    def __init__(self, door: Door, http: PacedProtocol) -> None:
        self._door = door
        self._http = http
        self._handshake: asyncio.Task[None] | None = None
        self._early = b""
        self._gone = False
        self._place: Place | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        peer = transport.get_extra_info("peername")
        self._place = self._door.places.take(peer[0] if peer else "", lambda: self._hang_up(transport))
        if self._place is None:
            transport.abort()
            return
        self._http.asked, self._http.left = self._asked, self._left
        if self._door.tls is None:
            transport.set_protocol(self._http)
            self._http.connection_made(transport)
        else:
            transport.pause_reading()  # what comes is for the handshake
            self._handshake = self._http.loop.create_task(self._shake_hands(transport, self._door.tls), name="TLS handshake")

    def _asked(self) -> None:
        if self._place is not None:
            self._door.places.asked(self._place)

    def _left(self) -> None:  # several say so of one that failed in its handshake
        if self._place is not None:
            self._door.places.leave(self._place)
            self._place = None

    def _hang_up(self, transport: asyncio.Transport) -> None:
        transport.abort()
        self._left()  # its place is another's now, and not when the loop comes to tell that it is lost

    def data_received(self, data: bytes) -> None:
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._left()

    async def _shake_hands(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        try:
            secure = await self._http.loop.start_tls(
                transport, self, tls, server_side=True, ssl_handshake_timeout=self._door.limits.handshake_seconds
            )
        except OSError as error:  # ssl.SSLError is one
            _log.debug("no TLS handshake: %s", error)
            secure = None
        except BaseException:
            transport.abort()
            self._left()
            raise
        if secure is None or self._gone:
            transport.abort()
            self._left()
            return
        secure.set_protocol(self._http)
        self._http.connection_made(secure)
        if self._early:
            self._http.data_received(self._early)
