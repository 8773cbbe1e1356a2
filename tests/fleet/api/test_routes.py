"""Every route, asked by everybody: nobody gets what is not theirs, and a route that is not in this table fails."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from fleet.access import NewKey
from fleet.api.connections import Door
from fleet.enrolling.views import JoinRequest
from fleet.principal import ROLES
from fleet.trust.api_key import authenticator
from fleet.trust.keys import ApiKeys
from fleet.trust.server_certificate import Names, ServerCertificate
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.http_server import serving
from tests.support.members import TestFleet
from tests.support.shared_app import shared_app

MODEL = {"model": "tiny"}
CHAT = {**MODEL, "messages": [{"role": "user", "content": "hi"}]}
JOIN = {"port": 7420, "signing_request": "a request", "nonce": "00", "token_key": "00", "token_signature": "00"}
# Of each route: the least role that may ask it, and a body that it takes.
ROUTES: dict[tuple[str, str], tuple[str, Any]] = {
    ("GET", "/healthz"): ("anyone", None),
    ("GET", "/readyz"): ("anyone", None),
    ("GET", "/openapi.json"): ("anyone", None),
    ("HEAD", "/openapi.json"): ("anyone", None),
    ("GET", "/"): ("anyone", None),
    ("HEAD", "/"): ("anyone", None),
    ("GET", "/page/{name:path}"): ("anyone", None),
    ("HEAD", "/page/{name:path}"): ("anyone", None),
    ("GET", "/metrics"): ("viewer", None),
    ("GET", "/api/v1/join"): ("anyone", None),
    ("POST", "/api/v1/join"): ("anyone", JOIN),
    ("GET", "/api/v1/me"): ("viewer", None),
    ("GET", "/api/v1/devices"): ("viewer", None),
    ("GET", "/api/v1/devices/{key}"): ("viewer", None),
    ("DELETE", "/api/v1/devices/{key}"): ("admin", None),
    ("POST", "/api/v1/devices/{key}/revoke"): ("admin", None),
    ("POST", "/api/v1/devices/{key}/drain"): ("operator", None),
    ("POST", "/api/v1/devices/{key}/undrain"): ("operator", None),
    ("GET", "/api/v1/discovery"): ("viewer", None),
    ("GET", "/api/v1/diagnosis"): ("viewer", None),
    ("GET", "/api/v1/logs"): ("operator", None),
    ("GET", "/api/v1/enrolments"): ("viewer", None),
    ("POST", "/api/v1/enrolments/{board}"): ("operator", None),
    ("DELETE", "/api/v1/enrolments/{board}"): ("operator", None),
    ("GET", "/api/v1/tokens"): ("admin", None),
    ("POST", "/api/v1/tokens"): ("admin", {}),
    ("DELETE", "/api/v1/tokens/{token_id}"): ("admin", None),
    ("GET", "/api/v1/keys"): ("admin", None),
    ("POST", "/api/v1/keys"): ("admin", {"name": "x", "role": "admin"}),
    ("DELETE", "/api/v1/keys/{key_id}"): ("admin", None),
    ("GET", "/api/v1/audit"): ("admin", None),
    ("GET", "/api/v1/audit/verdict"): ("admin", None),
    ("GET", "/api/v1/models"): ("viewer", None),
    ("GET", "/api/v1/models/{name}"): ("viewer", None),
    ("POST", "/api/v1/plans"): ("viewer", MODEL),
    ("GET", "/api/v1/deployments"): ("viewer", None),
    ("POST", "/api/v1/deployments"): ("operator", MODEL),
    ("DELETE", "/api/v1/deployments/{name}"): ("operator", None),
    ("POST", "/api/v1/generate"): ("user", {**MODEL, "prompt": "hi"}),
    ("GET", "/api/v1/requests"): ("viewer", None),
    ("DELETE", "/api/v1/requests/{request_id}"): ("operator", None),
    ("GET", "/api/v1/telemetry"): ("viewer", None),
    ("GET", "/api/v1/telemetry/history"): ("viewer", None),
    ("GET", "/api/v1/telemetry/percentiles"): ("viewer", None),
    ("GET", "/api/version"): ("viewer", None),
    ("GET", "/api/tags"): ("viewer", None),
    ("GET", "/api/ps"): ("viewer", None),
    ("POST", "/api/show"): ("viewer", MODEL),
    ("POST", "/api/chat"): ("user", CHAT),
    ("POST", "/api/generate"): ("user", {**MODEL, "prompt": "hi"}),
    ("POST", "/api/embed"): ("user", {**MODEL, "input": "hi"}),
    ("GET", "/v1/models"): ("viewer", None),
    ("GET", "/v1/models/{name:path}"): ("viewer", None),
    ("POST", "/v1/chat/completions"): ("user", CHAT),
    ("POST", "/v1/completions"): ("user", {**MODEL, "prompt": "hi"}),
    ("POST", "/v1/responses"): ("user", {**MODEL, "input": "hi"}),
    ("POST", "/v1/embeddings"): ("user", {**MODEL, "input": "hi"}),
}
BAD = ["no key", "wrong", "expired", "revoked"]
ORDER = ["anyone", *ROLES]


class Fixture:
    """An application with real keys, one for each caller."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.coordinator = FakeCoordinator()
        keys = ApiKeys(folder, lambda: self.now)
        self.keys: dict[str, str] = {role: keys.make(NewKey(role, role)).key for role in ROLES}
        self.keys["expired"] = keys.make(NewKey("expired", "admin", 1.0)).key
        self.keys["revoked"] = keys.make(NewKey("revoked", "admin")).key
        keys.revoke("revoked")
        self.keys["wrong"] = self.keys["admin"][:-4] + "aaaa"
        self.now += 10
        self.app = shared_app(self.coordinator, authenticator("the home's own", keys))

    def headers(self, caller: str) -> dict[str, str]:
        return {} if caller == "no key" else {"Authorization": f"Bearer {self.keys[caller]}"}


@pytest.fixture
def made(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path)


@pytest.fixture
async def http(made: Fixture) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(made.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="https://board.local") as client:
        yield client


def routes_of(app: Any) -> set[tuple[str, str]]:
    """All that the application answers, whatever made it."""
    found: set[tuple[str, str]] = set()
    for route in app.routes:
        for one in [route] if isinstance(route, Route) else route.effective_candidates():  # of a router that was included
            found |= {(method, one.path) for method in one.methods or ()}
    return found


def filled(path: str) -> str:
    """With names in the place of its parameters."""
    path = path.replace("/page/{name:path}", "/page/app.js")
    return re.sub(r"\{\w+(:path)?\}", "tiny", re.sub(r"\{(key|board)\}", "dev-1", path))


def test_every_route_is_in_the_table(made: Fixture) -> None:
    assert routes_of(made.app) == set(ROUTES)


@pytest.mark.parametrize("caller", [*BAD, *ROLES])
@pytest.mark.parametrize("route", sorted(ROUTES), ids=" ".join)
async def test_a_route_is_for_its_role_and_those_above(made: Fixture, http: httpx.AsyncClient, route: tuple[str, str], caller: str) -> None:
    (method, path), (least, body) = route, ROUTES[route]
    answer = await http.request(method, filled(path), headers=made.headers(caller), json=body)
    if least == "anyone":
        assert answer.is_success
    elif caller in BAD:
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        told = answer.json()["error"]
        reasons = {"no key": "no_key", "wrong": "unknown_key", "expired": "expired_key", "revoked": "revoked_key"}
        if isinstance(told, dict):  # Ollama's is a sentence
            assert told.get("reason", told["code"]) in (reasons[caller], "invalid_api_key")
        assert made.coordinator.asked == []
    elif ORDER.index(caller) >= ORDER.index(least):
        assert answer.is_success, answer.text
    else:
        assert answer.status_code == 403
        assert "is missing" in answer.text
        assert made.coordinator.asked == []


async def test_a_device_s_certificate_is_no_key(made: Fixture, tmp_path: Path) -> None:
    """Over HTTPS: whoever has taken a device over has its certificate, and is nobody here."""
    members = TestFleet.open(tmp_path)
    members.member("caller")
    shown = ServerCertificate(members.authority, tmp_path, Names(("localhost",), ("127.0.0.1",)))
    trusting = ssl.create_default_context(cafile=str(tmp_path / "authority" / "certificate.pem"))
    trusting.load_cert_chain(tmp_path / "caller" / "certificate.pem", tmp_path / "caller" / "key.pem")
    async with (
        serving(made.app, Door(tls=shown.context)) as url,
        httpx.AsyncClient(verify=trusting, trust_env=False, base_url=url) as http,
    ):
        for (method, path), (least, body) in ROUTES.items():
            answer = await http.request(method, filled(path), json=body)
            assert answer.is_success if least == "anyone" else answer.status_code == 401, (method, path)
    assert [type(asked) for asked in made.coordinator.asked] == [JoinRequest]


async def test_what_is_no_route_is_hidden_from_strangers(http: httpx.AsyncClient, made: Fixture) -> None:
    assert (await http.get("/api/v1/moons")).status_code == 401
    assert (await http.get("/api/v1/moons", headers=made.headers("viewer"))).status_code == 404
    assert (await http.get("/api/v1/join/")).status_code == 401


async def test_a_stranger_s_body_is_not_read(http: httpx.AsyncClient, made: Fixture) -> None:
    taken = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield b"x" * 1000

    for path in ("/api/v1/generate", "/v1/chat/completions", "/api/v1/deployments"):
        assert (await http.post(path, content=body())).status_code == 401
    assert taken == 0
    assert (await http.post("/api/v1/join", content=body(), headers={"content-type": "application/json"})).status_code == 413
    assert taken < 40


async def test_the_reasons_why_it_is_not_ready_are_for_who_may_see_them(http: httpx.AsyncClient, made: Fixture) -> None:
    assert (await http.get("/readyz")).json() == {"status": "ready"}
    assert (await http.get("/readyz", headers=made.headers("viewer"))).json() == {"status": "ready", "waiting": []}


async def test_budgets_end_in_429_in_each_shape(tmp_path: Path) -> None:
    now, coordinator = 1000.0, FakeCoordinator()
    keys = ApiKeys(tmp_path, lambda: now)
    coordinator.budget = keys  # type: ignore[assignment]
    few = keys.make(NewKey("few", "user", requests_per_minute=2)).key
    short = keys.make(NewKey("short", "user", tokens_per_day=10)).key
    app = shared_app(coordinator, authenticator("home", keys))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://board.local") as http:
        statuses = [(await http.get("/v1/models", headers={"Authorization": f"Bearer {few}"})).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = await http.get("/v1/models", headers={"Authorization": f"Bearer {few}"})
        assert refused.headers["retry-after"] == "30"
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert (await http.get("/api/v1/devices", headers={"Authorization": f"Bearer {few}"})).json()["error"]["reason"] == "requests"
        now += 30
        assert (await http.get("/v1/models", headers={"Authorization": f"Bearer {few}"})).status_code == 200

        asked = {"headers": {"Authorization": f"Bearer {short}"}, "json": {**MODEL, "prompt": "hi", "stream": False}}
        # Seven tokens each: the second goes beyond, the third finds nothing left.
        assert [(await http.post("/v1/completions", **asked)).status_code for _ in range(3)] == [200, 200, 429]  # type: ignore[arg-type]
        refused = await http.post("/v1/completions", **asked)  # type: ignore[arg-type]
        assert refused.json()["error"]["code"] == "insufficient_quota"
        assert refused.headers["retry-after"] == str(86400 - 1030)
        assert (await http.get("/v1/models", headers={"Authorization": f"Bearer {short}"})).status_code == 200
        now += 86400
        assert (await http.post("/v1/completions", **asked)).status_code == 200  # type: ignore[arg-type]
