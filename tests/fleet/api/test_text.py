"""Strings that cannot be written down, in a body, a header or an address: a 400 in the shape of its route, never a dropped connection."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from fleet.api.app import create_app
from fleet.trust.api_key import authenticator
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.http_server import serving

HALF = r"\ud800"
BODIES: list[tuple[str, str | bytes, str]] = [
    ("/v1/completions", f'{{"model": "{HALF}", "prompt": "x"}}', "model"),
    ("/v1/completions", f'{{"model": "tiny", "prompt": ["{HALF}"]}}', "prompt[0]"),
    ("/v1/chat/completions", f'{{"model": "tiny", "messages": [{{"role": "user", "content": "a{HALF}"}}]}}', "messages[0].content"),
    ("/v1/chat/completions", f'{{"model": "tiny", "messages": [], "{HALF}": 1}}', "a key in the body"),
    ("/v1/chat/completions", f'{{"model": "tiny", "chat_template_kwargs": {{"{HALF}": 1}}}}', "a key in chat_template_kwargs"),
    ("/api/v1/generate", f'{{"prompt": "x", "stop": ["{HALF.upper().replace("U", "u")}"]}}', "stop[0]"),
    ("/api/v1/generate", b'{"prompt": "\xed\xa0\x80"}', "prompt"),
    ("/api/v1/generate", '{"prompt": "\ud83d"}'.encode("utf-16-le", "surrogatepass"), "prompt"),
    ("/api/v1/deployments", f'{{"model": "tiny", "name": "{HALF}"}}', "name"),
    ("/api/v1/plans", f'{{"model": "tiny", "devices": ["a", "{HALF}"]}}', "devices[1]"),
]


def said(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    return str(error["message"] if answer.request.url.path.startswith("/v1/") else error["detail"])


async def post(http: httpx.AsyncClient, path: str, body: str | bytes) -> httpx.Response:
    return await http.post(path, content=body, headers={"content-type": "application/json"})


async def test_half_a_character_in_a_body(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    for path, body, place in BODIES:
        answer = await post(http, path, body)
        assert answer.status_code == 400, (path, body)
        assert said(answer).startswith(f"{place}: not Unicode: half of a surrogate pair")
    assert coordinator.asked == []


async def test_whole_characters_are_taken_however_they_are_written(http: httpx.AsyncClient) -> None:
    bodies: list[str | bytes] = [
        r'{"prompt": "\ud83d\ude00", "stream": false}',
        '{"prompt": "\U0001f600 \uffff \ud7ff", "stream": false}',
        r'{"prompt": "\\ud800", "stream": false}',
        '{"prompt": "\U0001f600", "stream": false}'.encode("utf-16-le"),
    ]
    for body in bodies:
        assert (await post(http, "/api/v1/generate", body)).status_code == 200, body


async def test_a_body_that_cannot_be_read(http: httpx.AsyncClient) -> None:
    for path in ("/api/v1/generate", "/v1/completions"):
        for body in (b'{"prompt": "caf\xe9"}', b"[" * 100_000, b'{"prompt": 1' + b"0" * 5000 + b"}"):
            answer = await post(http, path, body)
            assert (answer.status_code, "no JSON in UTF-8" in said(answer)) == (400, True)


async def test_deep_nesting_is_looked_through(http: httpx.AsyncClient) -> None:
    for levels, says in ((90, "half of a surrogate pair"), (400, "more than 100 deep")):
        body = '{"prompt": "x", "chat_template_kwargs": ' + '{"a": ' * levels + f'"{HALF}"' + "}" * levels + "}"
        answer = await post(http, "/api/v1/generate", body)
        assert (answer.status_code, says in answer.text) == (400, True)


ADDRESSES = [
    (b"GET /api/v1/models/caf\xe9 HTTP/1.1", b"Host: localhost"),
    (b"GET /api/v1/models/%ED%A0%80 HTTP/1.1", b"Host: localhost"),
    (b"GET /api/v1/telemetry?by=%ED%A0%80 HTTP/1.1", b"Host: localhost"),
    (b"GET /api/v1/telemetry?by=\xe9 HTTP/1.1", b"Host: localhost"),
    (b"GET /nowhere/%FF%00 HTTP/1.1", b"Host: localhost"),
    (b"GET /api/v1/models HTTP/1.1", b"Host: caf\xe9"),
    (b"POST /api/v1/plans HTTP/1.1", b"Host: localhost\r\nOrigin: http://["),
    (b"POST /api/v1/plans HTTP/1.1", b"Host: localhost\r\nOrigin: http://caf\xe9"),
    (b"nonsense", b""),
]


async def raw(url: str, line: bytes, headers: bytes) -> tuple[int, dict[str, Any]]:
    """(status, the error) of a request as it stands."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        writer.write(line + b"\r\n" + headers + b"\r\nConnection: close\r\n\r\n")
        head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return int(head.split()[1]), json.loads(body)["error"]


async def test_addresses_and_headers_that_are_no_text_are_answered_in_our_shape(coordinator: FakeCoordinator) -> None:
    async with serving(create_app(coordinator, authenticate=None)) as url:
        for line, headers in ADDRESSES:
            status, error = await raw(url, line, headers)
            assert status in (400, 403, 404), line
            assert set(error) == {"code", "detail", "advice"}, line


async def test_a_key_that_is_no_text_is_a_wrong_key(coordinator: FakeCoordinator) -> None:
    async with serving(create_app(coordinator, authenticate=authenticator("secret"))) as url:
        status, _ = await raw(url, b"GET /api/v1/models HTTP/1.1", b"Host: x\r\nAuthorization: Bearer caf\xe9")
    assert status == 401
