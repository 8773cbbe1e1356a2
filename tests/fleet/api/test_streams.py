from __future__ import annotations

import asyncio
import dataclasses
import json

import httpx
import pytest

from fleet.api.app import create_app
from fleet.cli.client import parse_events
from protos.errors import NotFound, Unavailable
from protos.sampling import Sampling
from tests.support.fake_coordinator import CHUNKS, RESULT, FakeCoordinator
from tests.support.http_server import serving
from tests.support.waiting import wait_until


def events_of(answer: httpx.Response) -> list[tuple[str, dict[str, object]]]:
    return list(parse_events(iter(answer.text.splitlines())))


async def test_tokens_come_as_events_and_the_result_last(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/generate", json={"prompt": "hello", "max_tokens": 5})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer)
    assert [name for name, _ in events] == ["token", "token", "token", "done"]
    assert events[0][1] == {"text": CHUNKS[0].text, "token_ids": [5], "in_thought": False, "logprobs": []}
    assert events[-1][1] == json.loads(json.dumps(dataclasses.asdict(RESULT)))
    (request,) = coordinator.asked
    assert (request.prompt, request.max_tokens, request.sampling) == ("hello", 5, Sampling())  # type: ignore[attr-defined]
    assert coordinator.closed == 1


async def test_without_streaming_one_object(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/generate", json={"prompt": "hello", "stream": False})
    assert answer.json()["text"] == RESULT.text
    assert answer.json()["devices"][0]["source"] == "modelled"


async def test_every_field_of_a_request_arrives(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    body = {
        "model": "tiny",
        "messages": [
            {"role": "user", "content": "hi", "tool_calls": [], "reasoning_content": None, "metadata": None, "name": "Ann"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"name": "f", "arguments": "{}"}],
                "reasoning_content": "so",
                "metadata": "f",
                "name": None,
            },
        ],
        "add_generation_prompt": False,
        "stop_token_ids": [3],
        "min_tokens": 2,
        "allowed_token_ids": [4, 5],
        "bad_words": ["foo"],
        "tools": ["{}"],
        "forced_ids": [1, 2],
        "stop": ["END"],
    }
    sampling = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "seed": (1 << 64) - 1,
        "min_p": 0.05,
        "repetition_penalty": 1.5,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "typical_p": 0.5,
    }
    variables = {"enable_thinking": False}
    await http.post("/api/v1/generate", json={**body, **sampling, "chat_template_kwargs": variables})
    given = json.loads(json.dumps(dataclasses.asdict(coordinator.asked[0])))  # type: ignore[call-overload]
    assert {key: given[key] for key in body} == body
    assert given["sampling"] == sampling
    assert json.loads(given["chat_template_kwargs"]) == variables


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_before_the_first_token_has_its_status(coordinator: FakeCoordinator, http: httpx.AsyncClient, stream: bool) -> None:
    coordinator.error = NotFound("nothing is deployed", advice="glmfleet deploy MODEL")
    answer = await http.post("/api/v1/generate", json={"prompt": "x", "stream": stream})
    assert answer.status_code == 404
    assert answer.json()["error"] == {"code": "NotFound", "detail": "nothing is deployed", "advice": "glmfleet deploy MODEL"}
    assert coordinator.closed == 1


@pytest.mark.parametrize(("error", "code"), [(Unavailable("dev-1: gone"), "Unavailable"), (RuntimeError("a defect"), "Internal")])
async def test_an_error_after_it_is_the_last_event(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, error: Exception, code: str
) -> None:
    coordinator.error, coordinator.error_at = error, 1
    answer = await http.post("/api/v1/generate", json={"prompt": "x"})
    assert answer.status_code == 200
    events = events_of(answer)
    assert [name for name, _ in events] == ["token", "error"]
    assert events[-1][1]["code"] == code


async def test_a_deployment_reports_its_steps(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/deployments", json={"model": "tiny", "stages": 1, "name": "prod"})
    assert [name for name, _ in events_of(answer)] == ["plan", "push", "push", "load", "ready"]
    ((request, name),) = coordinator.asked  # type: ignore[misc]
    assert (request.stages, name) == (1, "prod")  # type: ignore[has-type]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/generate", {"prompt": "x"}),
        ("/api/v1/generate", {"prompt": "x", "stream": False}),
        ("/api/v1/deployments", {"model": "tiny"}),
        ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}),
        ("/v1/completions", {"model": "tiny", "prompt": "x"}),
    ],
)
@pytest.mark.parametrize("hold_at", [0, 1])
async def test_a_client_that_leaves_ends_the_work_at_once(
    coordinator: FakeCoordinator, path: str, body: dict[str, object], hold_at: int
) -> None:
    coordinator.hold_at = hold_at
    async with serving(create_app(coordinator, authenticate=None)) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        asking = asyncio.create_task(client.post(path, json=body))
        await wait_until(lambda: coordinator.holding, 5)
        assert coordinator.closed == 0
        asking.cancel()  # closes the connection
        await wait_until(lambda: coordinator.closed == 1, 5)
