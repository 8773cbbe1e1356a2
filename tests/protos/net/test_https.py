"""Asking a coordinator over HTTPS, and what comes of whoever answers otherwise."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from fleet.api.connections import Door
from fleet.trust.authority import Authority
from fleet.trust.login import certificate_der
from fleet.trust.server_certificate import Names, ServerCertificate
from protos.errors import Denied, Internal, NotFound, TimedOut
from protos.ids import FleetId
from protos.net import https
from tests.support.http_server import serving


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "authority")


def application(body: bytes, status: int = 200) -> Callable[..., Awaitable[None]]:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        said = {"/echo": Request(scope).headers.get("authorization", "").encode()}.get(scope["path"], body)
        await Response(said, status)(scope, receive, send)

    return answer


async def asked(authority: Authority, folder: Path, body: bytes, status: int = 200, **how: Any) -> Any:
    """By a client that knows the authority, of a server whose certificate has no address."""
    certificate = ServerCertificate(authority, folder, Names((), ()))
    context = https.pinned(certificate_der(authority.certificate_pem.decode()))
    async with serving(application(body, status), Door(tls=certificate.context)) as url:
        address = url.removeprefix("https://")
        fleet = how.pop("fleet", authority.fleet_id)
        return await asyncio.to_thread(https.ask, address, "GET", how.pop("path", "/"), context=context, fleet=fleet, **how)


async def test_what_is_asked_is_answered(authority: Authority, tmp_path: Path) -> None:
    assert await asked(authority, tmp_path, b'{"a": [1]}') == {"a": [1]}
    with pytest.raises(Internal, match="as no coordinator does"):
        await asked(authority, tmp_path, b"", path="/echo", key="k")  # "Bearer k" is no JSON


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"<html>", 200, Internal),
        (b"\xff\xfe", 200, Internal),
        (b"{}", 500, Internal),
        (b'{"error": 7}', 400, Internal),
        (b'{"error": {"code": "NotFound", "detail": "no such thing", "advice": "look"}}', 404, NotFound),
        (b'{"error": {"code": "Whatever", "detail": "x"}}', 418, Internal),
        (b"[" + b"1," * 40_000 + b"1]", 200, Internal),
    ],
)
async def test_other_answers_are_errors(authority: Authority, tmp_path: Path, body: bytes, status: int, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        await asked(authority, tmp_path, body, status)


async def test_the_name_of_the_fleet_decides_and_not_the_address(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(Denied, match="is no coordinator of this fleet"):
        await asked(authority, tmp_path, b"{}", fleet=FleetId("a" * 16))


def test_silence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https, "SECONDS", 0.2)
    # The kernel takes the connection, and nobody speaks.
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimedOut):
        https.ask(f"127.0.0.1:{silent.getsockname()[1]}", "GET", "/", context=https.unverified(), fleet=None)


def test_what_is_no_certificate_is_not_pinned() -> None:
    with pytest.raises(Denied):
        https.pinned(b"none")
    assert https.unverified().verify_mode == ssl.CERT_NONE
