"""Who calls is said in one place, for every route."""

from __future__ import annotations

import re

import httpx
import pytest

from fleet.api.app import create_app
from fleet.principal import ANYONE, LOCAL_OPERATOR, Principal
from tests.support.fake_coordinator import FakeCoordinator

FREE = {"/healthz", "/readyz", "/openapi.json"}
VISITOR = Principal("visitor", "operator")


def known(authorization: str) -> Principal | None:
    return VISITOR if authorization == "Bearer visitor" else None


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
        assert status == (200 if path in FREE else 401), path
    assert coordinator.asked == []
    assert set(coordinator.callers) == {ANYONE}


async def test_every_route_asks_the_fleet_as_its_caller(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    for method, path in await routes(http):
        coordinator.callers.clear()
        await http.request(method, path, headers={"Authorization": "Bearer visitor"}, json={})
        assert coordinator.callers == ([] if path == "/healthz" else [ANYONE] if path == "/readyz" else [VISITOR]), path


async def test_without_a_check_the_caller_is_the_local_operator(coordinator: FakeCoordinator) -> None:
    transport = httpx.ASGITransport(create_app(coordinator, authenticate=None))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        await http.get("/api/v1/devices", headers={"Authorization": "Bearer whatever"})
    assert coordinator.callers == [LOCAL_OPERATOR]
