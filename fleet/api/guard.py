"""What is turned away before any route sees it: other sites' pages, other hosts' names, and bodies too large to be a request."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet.api.errors import respond
from protos.errors import Denied, InvalidInput

# The longest prompt that fits a context of 128k tokens is far below it, as text or as ids.
BODY_BYTES = 4 << 20

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_HARMLESS = ("GET", "HEAD", "OPTIONS")


class OwnPagesOnly:
    """Refuses what changes something and comes from another site's page.

    A browser sends a page's request to 127.0.0.1 even where it will not show the page the answer (CSRF). It names the page's origin with
    every such request; programs other than browsers send no Origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _HARMLESS and (page := _foreign_page(Headers(scope=scope))):
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
    """Ends a request whose body is longer than `limit_bytes` with 413, having read no more than that."""

    def __init__(self, app: ASGIApp, limit_bytes: int = BODY_BYTES) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        came_bytes = int(declared) if declared.isdecimal() and len(declared) < 20 else 0

        async def bounded() -> Message:
            nonlocal came_bytes
            if came_bytes <= self._limit_bytes:
                message = await receive()
                if message["type"] != "http.request" or declared:
                    return message  # the server holds the body to what was declared
                came_bytes += len(message.get("body", b""))
                if came_bytes <= self._limit_bytes:
                    return message
            raise HTTPException(413, f"a body of more than {self._limit_bytes} bytes")

        await self._app(scope, bounded, send)


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


def _foreign_page(headers: Headers) -> str | None:
    """The origin of the page that asks, when it is not one of ours."""
    origin = headers.get("origin")
    if origin is not None:
        return None if _authority(origin) == headers.get("host", "").lower() else origin
    return "another site" if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site") else None
