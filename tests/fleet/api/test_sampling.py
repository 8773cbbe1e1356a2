"""The sampling parameters as fields of both APIs' bodies."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from fleet.answering.views import GenerateRequest
from fleet.api.problems import shown
from protos.sampling import GREEDY, PARAMETERS, Sampling
from tests.support.fake_coordinator import FakeCoordinator

BODIES: dict[str, dict[str, Any]] = {
    "/api/v1/generate": {"prompt": "x", "stream": False},
    "/v1/completions": {"model": "tiny", "prompt": "x"},
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "x"}]},
}
OPENAI = sorted(path for path in BODIES if path.startswith("/v1"))
BAD = [
    ("temperature", -0.1),
    ("temperature", 101),
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("top_k", -2),
    ("top_k", 2**32),
    ("top_k", 1.5),
    ("top_p", 0),
    ("top_p", 1.1),
    ("top_p", float("nan")),
    ("seed", -(2**64)),
    ("seed", 2**64),
    ("seed", "x"),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("min_p", float("nan")),
    ("temperature", True),
    ("temperature", "hot"),
    ("top_k", []),
]


async def post(http: httpx.AsyncClient, path: str, **given: object) -> httpx.Response:
    text = json.dumps({**BODIES[path], **given})  # NaN, which httpx would not send
    return await http.post(path, content=text, headers={"content-type": "application/json"})


def sampling_asked(coordinator: FakeCoordinator) -> Sampling:
    (request,) = coordinator.asked
    assert isinstance(request, GenerateRequest)
    return request.sampling


@pytest.mark.parametrize(("name", "value"), BAD)
@pytest.mark.parametrize("path", BODIES)
async def test_a_value_out_of_bounds_is_one_line_that_names_it(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, path: str, name: str, value: object
) -> None:
    answer = await post(http, path, **{name: value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    said = error["message"] if path in OPENAI else error["detail"]
    bounds = "and at most 2" if path in OPENAI and name == "temperature" else f"and at most {PARAMETERS[name].bounds.most}"
    assert said.startswith(f"{name} is {shown(value)}: it must be a")
    assert said.endswith(bounds)
    assert "\n" not in said
    assert coordinator.asked == []


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("path", BODIES)
async def test_the_largest_value_arrives(coordinator: FakeCoordinator, http: httpx.AsyncClient, path: str, name: str) -> None:
    most = 2 if path in OPENAI and name == "temperature" else PARAMETERS[name].bounds.most
    assert (await post(http, path, **{name: most})).status_code == 200
    assert getattr(sampling_asked(coordinator), name) == most


@pytest.mark.parametrize("path", BODIES)
async def test_defaults_are_greedy_for_us_and_openais_for_openai(coordinator: FakeCoordinator, http: httpx.AsyncClient, path: str) -> None:
    await post(http, path)
    assert sampling_asked(coordinator) == (Sampling(temperature=1.0) if path in OPENAI else GREEDY)


@pytest.mark.parametrize("path", OPENAI)
async def test_null_is_the_default_and_top_k_minus_one_all(coordinator: FakeCoordinator, http: httpx.AsyncClient, path: str) -> None:
    await post(http, path, **{**dict.fromkeys(PARAMETERS), "top_k": -1})
    assert sampling_asked(coordinator) == Sampling(temperature=1.0)


@pytest.mark.parametrize("path", OPENAI)
async def test_openais_temperature_ends_at_two(http: httpx.AsyncClient, path: str) -> None:
    assert (await post(http, path, temperature=2.1)).status_code == 400


async def test_the_openapi_document_tells_the_bounds(http: httpx.AsyncClient) -> None:
    schemas = (await http.get("/openapi.json")).json()["components"]["schemas"]
    assert set(PARAMETERS) <= set(schemas["GenerateBody"]["properties"])
    for body in ("ChatBody", "CompletionBody"):
        assert set(PARAMETERS) <= set(schemas[body]["properties"])
    top_p = schemas["GenerateBody"]["properties"]["top_p"]
    assert (top_p["exclusiveMinimum"], top_p["maximum"], top_p["default"]) == (0, 1, 1.0)


@pytest.mark.parametrize("path", BODIES)
async def test_what_is_not_given_is_left_to_the_model_and_a_zero_is_given(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, path: str
) -> None:
    await post(http, path)
    nulls = {"top_p": None} if path in OPENAI else {}
    await post(http, path, temperature=0, top_k=0, min_p=0.0, **nulls)
    silent, explicit = coordinator.asked
    assert isinstance(silent, GenerateRequest)
    assert isinstance(explicit, GenerateRequest)
    assert silent.left_to_model == tuple(PARAMETERS)
    assert explicit.left_to_model == tuple(name for name in PARAMETERS if name not in ("temperature", "top_k", "min_p"))
    assert (explicit.sampling.temperature, explicit.sampling.top_k) == (0.0, 0)
