"""Who calls is said in one place, for every route."""

from __future__ import annotations

import re

import httpx
import pytest

from fleet.api.app import create_app
from fleet.principal import ANYONE, LOCAL_ADMIN, Principal, Unauthenticated
from tests.support.fake_coordinator import FakeCoordinator

CALLERS = {
    ("GET", "/healthz"): [],
    ("GET", "/readyz"): [ANYONE, Principal("visitor", "admin")],
    ("GET", "/api/v1/join"): [ANYONE],
    ("POST", "/api/v1/join"): [],  # what came is no request: nothing is asked
    ("GET", "/api/v1/me"): [Principal("visitor", "admin")],
}
FREE = {"/healthz", "/readyz", "/openapi.json", "/api/v1/join"}
VISITOR = Principal("visitor", "admin")


def known(authorization: str) -> Principal:
    if authorization != "Bearer visitor":
        raise Unauthenticated("nobody knows this key", "unknown_key")
    return VISITOR


@pytest.fixture
def http(coordinator: FakeCoordinator) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(coordinator, authenticate=known), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://board.local")


async def routes(http: httpx.AsyncClient) -> list[tuple[str, str]]:
    described = (await http.get("/openapi.json")).json()["paths"]
    found = [(method.upper(), re.sub(r"\{\w+\}", "tiny", path)) for path, methods in described.items() for method in methods]
    assert len(found) > 12
    return found


async def test_nobody_unknown_gets_past_any_route(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    for method, path in await routes(http):
        status = (await http.request(method, path)).status_code
        assert status == (401 if path not in FREE else 200 if method == "GET" else 400), path
    assert coordinator.asked == []
    assert set(coordinator.callers) == {ANYONE}


async def test_every_route_asks_the_fleet_as_its_caller(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    for method, path in await routes(http):
        coordinator.callers.clear()
        await http.request(method, path, headers={"Authorization": "Bearer visitor"}, json={})
        assert coordinator.callers == CALLERS.get((method, path), [VISITOR]), path


async def test_without_a_check_the_caller_is_the_local_operator(coordinator: FakeCoordinator) -> None:
    transport = httpx.ASGITransport(create_app(coordinator, authenticate=None))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        await http.get("/api/v1/devices", headers={"Authorization": "Bearer whatever"})
    assert coordinator.callers == [LOCAL_ADMIN]
