from __future__ import annotations

import dataclasses

import httpx
import pytest

from fleet.api.errors import status_of
from fleet.trust.api_key import authenticator
from protos.errors import LEAVES, Busy, Conflict, FleetError, Internal, InvalidInput, NoSpace, NotFound, TimedOut, Unavailable
from tests.support.fake_coordinator import DEPLOYMENT, DEVICE, MODEL, PLAN, ROW, FakeCoordinator
from tests.support.shared_app import shared_app


def client_of(coordinator: FakeCoordinator, **how: str | None) -> httpx.AsyncClient:
    key = how.get("api_key")
    app = shared_app(coordinator, authenticator(key) if key else None)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=how.get("base_url") or "http://localhost")


def as_json(view: object) -> dict[str, object]:
    plain = dataclasses.asdict(view)  # type: ignore[call-overload]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


async def test_devices_are_listed_with_every_field(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/v1/devices")).json() == [as_json(DEVICE)]


@pytest.mark.parametrize("key", ["dev-1", "aaaabbbbccccdddd"])
async def test_a_device_is_found_by_name_and_by_id(http: httpx.AsyncClient, key: str) -> None:
    assert (await http.get(f"/api/v1/devices/{key}")).json()["device_id"] == DEVICE.device_id


async def test_an_unknown_device_names_those_there_are(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/v1/devices/nobody")
    assert answer.status_code == 404
    assert answer.json() == {"error": {"code": "NotFound", "detail": "no device nobody", "advice": "devices here: dev-1"}}


async def test_a_name_that_two_devices_share_is_a_conflict(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    coordinator.found.append(dataclasses.replace(DEVICE, device_id="eeee"))
    answer = await http.get("/api/v1/devices/dev-1")
    assert answer.status_code == 409
    assert "eeee" in answer.json()["error"]["advice"]


async def test_discovery_models_and_deployments(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/v1/discovery")).json()["other_fleets"] == 2
    assert (await http.get("/api/v1/models")).json() == [as_json(MODEL)]
    assert (await http.get("/api/v1/models/tiny")).json() == as_json(MODEL)
    assert (await http.get("/api/v1/models/big")).status_code == 404
    assert (await http.get("/api/v1/deployments")).json()[0]["name"] == DEPLOYMENT.name


async def test_a_plan_is_asked_for_with_every_wish(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "objective": "energy", "stages": 2, "context": 64, "slots": 4, "devices": ["dev-1"]}
    body |= {"kv_dtype": "int8", "wire_dtype": "float16", "decode": "pairs"}
    answer = await http.post("/api/v1/plans", json=body)
    assert answer.json()["why"] == list(PLAN.why)
    (request,) = coordinator.asked
    assert as_json(request) == body


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "model"),
        ({"model": "tiny", "stages": 0}, "stages"),
        ({"model": "tiny", "stage": 2}, "stage"),
        ({"model": "tiny", "objective": "x"}, "objective"),
        ({"model": "tiny", "kv_dtype": "int4"}, "kv_dtype"),
        ({"model": "tiny", "wire_dtype": "bfloat16"}, "wire_dtype"),
    ],
)
async def test_a_bad_plan_request_names_the_field(http: httpx.AsyncClient, body: dict[str, object], named: str) -> None:
    answer = await http.post("/api/v1/plans", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "InvalidInput"
    assert answer.json()["error"]["detail"].startswith(f"{named} is ")


async def test_undeploy(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    answer = await http.delete("/api/v1/deployments/tiny")
    assert (answer.status_code, answer.content) == (204, b"")
    assert coordinator.asked == ["tiny"]


async def test_telemetry(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/v1/telemetry?since=90&by=model")).json() == [as_json(ROW)]
    assert coordinator.asked == [(90.0, "model")]
    assert (await http.get("/api/v1/telemetry?by=moon")).status_code == 400
    assert (await http.get("/api/v1/telemetry?since=-1")).status_code == 400
    assert (await http.get("/api/v1/telemetry?since=0")).status_code == 400
    misspelt = await http.get("/api/v1/telemetry?sinse=90")
    assert (misspelt.status_code, "sinse" in misspelt.json()["error"]["detail"]) == (400, True)


async def test_ready_says_what_is_waited_for(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    assert (await http.get("/readyz")).status_code == 200
    coordinator.deployed = [dataclasses.replace(DEPLOYMENT, state="degraded", detail="dev-1 is offline")]
    answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["waiting"] == [{"deployment": "tiny", "state": "degraded", "detail": "dev-1 is offline"}]


@pytest.mark.parametrize(
    ("error", "status"), [(InvalidInput, 400), (NotFound, 404), (Conflict, 409), (NoSpace, 507), (Unavailable, 503), (Internal, 500)]
)
async def test_each_error_has_its_status(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, error: type[FleetError], status: int
) -> None:
    coordinator.error = error("it is so", advice="do this")
    answer = await http.post("/api/v1/plans", json={"model": "tiny"})
    assert answer.status_code == status
    assert answer.json() == {"error": {"code": error.__name__, "detail": "it is so", "advice": "do this"}}


def test_every_leaf_of_the_error_tree_has_a_status_of_its_own() -> None:
    statuses = {leaf.__name__: status_of(leaf("x")) for leaf in LEAVES}
    assert {name for name, status in statuses.items() if status == 500} == {"Corrupt", "Internal"}


@pytest.mark.parametrize(
    ("error", "status", "seconds"),
    [
        (Busy("full", retry_after_seconds=2.2), 429, "3"),
        (Busy("full"), 429, "1"),
        (Unavailable("gone", retry_after_seconds=2.2), 503, "3"),
        (Unavailable("gone"), 503, "1"),
        (TimedOut("slow"), 504, None),
        (Conflict("no"), 409, None),
    ],
)
@pytest.mark.parametrize(("path", "body"), [("/api/v1/plans", {"model": "tiny"}), ("/v1/completions", {"model": "tiny", "prompt": "x"})])
async def test_what_may_help_later_says_when(
    coordinator: FakeCoordinator,
    http: httpx.AsyncClient,
    error: FleetError,
    status: int,
    seconds: str | None,
    path: str,
    body: dict[str, str],
) -> None:
    coordinator.error = error
    answer = await http.post(path, json=body)
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, seconds)


async def test_a_defect_is_told_without_a_traceback(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    coordinator.found = None  # type: ignore[assignment]
    answer = await http.get("/api/v1/devices/dev-1")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "Internal"
    assert "Traceback" not in answer.text


async def test_an_unknown_route_has_the_same_shape(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/v1/moons")
    assert answer.status_code == 404
    assert "GET /api/v1/moons" in answer.json()["error"]["detail"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}])
@pytest.mark.parametrize("path", ["/api/v1/devices", "/v1/models"])
async def test_the_key_is_asked_for(coordinator: FakeCoordinator, headers: dict[str, str], path: str) -> None:
    async with client_of(coordinator, api_key="secret") as http:  # pragma: allowlist secret
        answer = await http.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "error" in answer.json()


async def test_the_key_opens(coordinator: FakeCoordinator) -> None:
    async with client_of(coordinator, api_key="secret", base_url="http://10.0.0.1") as http:  # pragma: allowlist secret
        assert (await http.get("/api/v1/devices", headers={"Authorization": "Bearer secret"})).status_code == 200
        assert (await http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "10.0.0.1", "", "localhost.evil.example:7400", "[::1", "evil@", "127.0.0.1.evil"])
async def test_without_a_key_a_page_cannot_reach_it_by_another_name(coordinator: FakeCoordinator, host: str) -> None:
    async with client_of(coordinator) as http:
        answer = await http.get("/api/v1/devices", headers={"Host": host})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "InvalidInput"
        assert repr(host) in answer.json()["error"]["detail"]
        answer = await http.get("/v1/models", headers={"Host": host})
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("host", ["127.0.0.1:7400", "localhost", "LocalHost:80", "[::1]:7400"])
async def test_its_own_names_are_served(coordinator: FakeCoordinator, host: str) -> None:
    async with client_of(coordinator) as http:
        assert (await http.get("/api/v1/devices", headers={"Host": host})).status_code == 200


async def test_the_openapi_document_names_every_route(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert {"/api/v1/devices", "/api/v1/generate", "/api/v1/deployments/{name}", "/v1/chat/completions", "/readyz"} <= set(paths)


async def test_as_many_ended_requests_are_listed_as_are_asked_for(http: httpx.AsyncClient) -> None:
    assert len((await http.get("/api/v1/requests")).json()) == 1
    assert (await http.get("/api/v1/requests?ended=0")).json() == []
    assert len((await http.get("/api/v1/requests?ended=5")).json()) == 1
    assert (await http.get("/api/v1/requests?ended=-1")).status_code == 400
