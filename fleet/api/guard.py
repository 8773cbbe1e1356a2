"""What is turned away before any route sees it: strangers, other sites' pages, other hosts' names, and bodies that are none."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet.api.caller import FleetOfCaller
from fleet.api.errors import respond
from protos.errors import Denied, FleetError, InvalidInput

# The longest prompt that fits a context of 128k tokens is far below it, as text or as ids.
BODY_BYTES = 4 << 20
HEAD_BYTES = 32 << 10  # of a request: its line and its headers

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class KeyFirst:
    """Refuses whoever is not known before anything of the body is read, whatever is asked for but the paths in `open_to_all`."""

    def __init__(self, app: ASGIApp, of_caller: FleetOfCaller, open_to_all: Collection[str]) -> None:
        self._app = app
        self._of_caller = of_caller
        self._open_to_all = open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open_to_all:
            request = Request(scope)
            try:
                self._of_caller.who(request)
            except FleetError as error:
                await respond(request, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class SoundHead:
    """Refuses a head that is too long; and a request that says twice how long it is, whose connection ends: a proxy before us may have
    taken the other length, and what it passed on as a body would be read here as a request of its own (smuggling; RFC 9112, 6.1)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in scope["headers"])
            if size > HEAD_BYTES:  # uvicorn bounds what comes in parts alone
                raised = InvalidInput(
                    f"the head of the request has more than {HEAD_BYTES} bytes", advice="send less in headers and address"
                )
                await respond(Request(scope), raised, 431)(scope, receive, send)
                return
            names = [name for name, _ in scope["headers"]]
            chunked, lengths = names.count(b"transfer-encoding"), names.count(b"content-length")
            if chunked + lengths > 1 or (chunked and scope["http_version"] == "1.0"):
                error = InvalidInput("the request says twice how long it is", advice="send Content-Length or Transfer-Encoding, once")
                response = respond(Request(scope), error)
                response.headers["connection"] = "close"
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


class OwnPagesOnly:
    """Refuses what comes from another site's page, but for a link to us that somebody followed.

    A browser sends a page's request to 127.0.0.1 even where it will not show the page the answer (CSRF), and a page may learn from how long
    it takes, or from whether a picture was one. It names the page's origin, or how far it is from us; other programs send neither.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (page := _foreign_page(scope["method"], Headers(scope=scope))):
            error = Denied(f"a page of {page[:100]!r} may not use this coordinator", advice="only programs and its own pages may")
            await respond(Request(scope), error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class OwnNamesOnly:
    """Refuses requests to another host's name: a page may ask for any name that resolves to 127.0.0.1 (DNS rebinding)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _host_name(given := Headers(scope=scope).get("host", "")) not in _LOCAL_NAMES:
            advice = "use http://127.0.0.1 or http://localhost, or serve with --require-key"
            error = InvalidInput(f"{given[:100]!r} is not a name of this coordinator", advice=advice)
            await respond(Request(scope), error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class BoundedBody:
    """Ends a request whose body is longer than `limit_bytes`, or than its path's, with 413, having read no more than that."""

    def __init__(self, app: ASGIApp, limit_bytes: int = BODY_BYTES, of_path: Mapping[str, int] | None = None) -> None:
        self._app = app
        self._limit_bytes = limit_bytes
        self._of_path = dict(of_path or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        limit_bytes = self._of_path.get(scope["path"], self._limit_bytes)
        came_bytes = int(declared) if declared.isdecimal() and len(declared) < 20 else 0

        async def bounded() -> Message:
            nonlocal came_bytes
            if came_bytes <= limit_bytes:
                message = await receive()
                if message["type"] != "http.request" or declared:
                    return message  # the server holds the body to what was declared
                came_bytes += len(message.get("body", b""))
                if came_bytes <= limit_bytes:
                    return message
            raise HTTPException(413, f"a body of more than {limit_bytes} bytes")

        await self._app(scope, bounded, send)


class JsonAnyway:
    """Has the body of these paths read as JSON whatever its sender calls it: Ollama's users send what curl sends by itself."""

    def __init__(self, app: ASGIApp, paths: Collection[str]) -> None:
        self._app = app
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self._paths:
            others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
            scope = {**scope, "headers": [*others, (b"content-type", b"application/json")]}
        await self._app(scope, receive, send)


def _host_name(host: str) -> str | None:
    """Of a Host header, without the port; None when it is not one."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _authority(origin: str) -> str | None:
    """Host and port of an Origin header; None when it is not one."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _foreign_page(method: str, headers: Headers) -> str | None:
    """The origin of the page that asks, when it is not one of ours."""
    origin = headers.get("origin")
    if origin is not None:
        return None if _authority(origin) == headers.get("host", "").lower() else origin
    if headers.get("sec-fetch-site", "none") not in ("cross-site", "same-site"):
        return None
    # Of a link the page that has it sees nothing; a frame is another matter.
    followed = method == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return None if followed else "another site"
