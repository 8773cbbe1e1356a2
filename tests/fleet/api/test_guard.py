"""What pages of other sites and oversized bodies get."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from fleet.api.app import create_app
from fleet.api.guard import BODY_BYTES
from fleet.trust.api_key import authenticator
from tests.support.fake_coordinator import FakeCoordinator

FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:3000"},
    {"origin": "http://localhost.evil.example"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/api/v1/deployments/tiny"), ("POST", "/api/v1/deployments"), ("POST", "/v1/completions"), ("POST", "/api/v1/plans")],
)
async def test_another_sites_page_changes_nothing(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, headers: dict[str, str], method: str, path: str
) -> None:
    # As a browser sends it without asking first: no content type.
    answer = await http.request(method, path, headers=headers, content=b'{"model": "tiny", "prompt": "x"}')
    assert answer.status_code == 403
    assert "may not use this coordinator" in answer.text
    assert coordinator.asked == []


@pytest.mark.parametrize("headers", [{}, {"origin": "http://localhost"}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}])
async def test_programs_and_own_pages_are_served(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await http.delete("/api/v1/deployments/tiny", headers=headers)).status_code == 204


async def test_following_a_link_is_no_attack(http: httpx.AsyncClient) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert (await http.get("/openapi.json", headers=link)).status_code == 200
    assert (await http.get("/openapi.json", headers={**link, "sec-fetch-dest": "iframe"})).status_code == 403


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/api/v1/devices", "/v1/models", "/healthz"])
async def test_another_sites_page_reads_nothing_either(http: httpx.AsyncClient, headers: dict[str, str], method: str, path: str) -> None:
    assert (await http.request(method, path, headers=headers)).status_code == 403


async def test_with_a_key_the_key_decides(coordinator: FakeCoordinator) -> None:
    transport = httpx.ASGITransport(create_app(coordinator, authenticate=authenticator("secret")))
    async with httpx.AsyncClient(transport=transport, base_url="http://board.local:7400") as http:
        page = {"origin": "http://dashboard.local"}
        assert (await http.delete("/api/v1/deployments/tiny", headers=page)).status_code == 401
        assert (await http.delete("/api/v1/deployments/tiny", headers={**page, "authorization": "Bearer secret"})).status_code == 204


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("path", "shape"), [("/api/v1/generate", "detail"), ("/v1/completions", "message")])
async def test_a_body_beyond_the_limit_is_refused_unread(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, declared: bool, path: str, shape: str
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 1 << 20
            yield b"a" * (1 << 20)

    headers = {"content-type": "application/json", **({"content-length": str(BODY_BYTES + 1)} if declared else {})}
    answer = await http.post(path, content=endless(), headers=headers)
    assert answer.status_code == 413
    assert "a body of more than" in answer.json()["error"][shape]
    assert sent <= BODY_BYTES + (2 << 20)
    assert coordinator.asked == []


async def test_a_body_at_the_limit_is_read(http: httpx.AsyncClient) -> None:
    room = BODY_BYTES - len('{"prompt": ""}')
    answer = await http.post(
        "/api/v1/generate", content=b'{"prompt": "' + b"a" * room + b'"}', headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"prompt":' * 100_000,
        b'{"prompt":"x","temperature":NaN}',
        b'{"prompt":"x","temperature":1e999}',
        b'{"prompt":"x","max_tokens":' + b"9" * 5000 + b"}",
        b'{"prompt":"x","stop":["a"' + b',"b"' * 100_000 + b"]}",
        b'{"prompt":"x","stop":["' + b"a" * 1001 + b'"]}',
        b'{"prompt":"\xff"}',
        b'{"' + b"x" * 100_000 + b'":1}',
        b"\x00",
    ],
)
async def test_absurd_bodies_are_one_short_line(coordinator: FakeCoordinator, http: httpx.AsyncClient, body: bytes) -> None:
    for path in ("/api/v1/generate", "/v1/chat/completions", "/v1/completions", "/api/v1/deployments"):
        answer = await http.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert len(answer.text) < 1000
    assert coordinator.asked == []
