"""`response_format` and `tool_choice` of OpenAI's clients: what arrives, and what is refused in a line."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import httpx
import openai
import pydantic
import pytest

from tests.support.fake_coordinator import RESULT, FakeCoordinator
from tests.support.openai_requests import CHAT, HELLO, TOOL, asked

PING: Any = {"type": "function", "function": {"name": "ping"}}
SCHEMA: Any = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


class City(pydantic.BaseModel):
    name: str
    people: int


async def post(http: httpx.AsyncClient, **given: object) -> httpx.Response:
    return await http.post(CHAT, json={"model": "tiny", "messages": HELLO, **given})


@pytest.mark.parametrize(
    ("wish", "schema"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}, SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "x", "description": "d", "schema": SCHEMA}}, SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, {}),
    ],
)
async def test_the_format_of_an_answer_arrives(coordinator: FakeCoordinator, http: httpx.AsyncClient, wish: Any, schema: Any) -> None:
    assert (await post(http, response_format=wish)).status_code == 200
    told = asked(coordinator).json_schema
    assert (json.loads(told) if told else None) == schema


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"type": "yaml"}, "response_format"),
        ({"type": "json_object", "x": 1}, "response_format.x"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": "y"}}, "response_format.json_schema.schema"),
        ("json", "response_format"),
    ],
)
async def test_a_format_that_is_none_is_refused_by_its_place(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, wish: Any, param: str
) -> None:
    answer = await post(http, response_format=wish)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert coordinator.asked == []


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        (None, ()),
        ("auto", ()),
        ("required", ("get_weather", "ping")),
        ({"type": "function", "function": {"name": "ping"}}, ("ping",)),
    ],
)
@pytest.mark.parametrize("parallel", [None, False])
async def test_which_tools_are_to_be_called_arrives(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, choice: Any, called: tuple[str, ...], parallel: bool | None
) -> None:
    assert (await post(http, tools=[TOOL, PING], tool_choice=choice, parallel_tool_calls=parallel)).status_code == 200
    request = asked(coordinator)
    assert (request.called_tools, request.parallel_tool_calls) == (called, parallel is None)
    assert len(request.tools) == 2


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": [PING], "tool_choice": {"type": "function", "function": {"name": "pong"}}}, "names 'pong', which is none of the tools"),
        ({"tools": [PING], "tool_choice": "always"}, 'tool_choice is "always": it must be "none", "auto", "required" or'),
        ({"tools": [PING], "tool_choice": {"type": "function"}}, "tool_choice is an object: it must be"),
        ({"tools": [PING], "tool_choice": 7}, "tool_choice is 7: it must be"),
    ],
)
async def test_a_choice_that_is_none_is_refused(coordinator: FakeCoordinator, http: httpx.AsyncClient, given: Any, why: str) -> None:
    error = (await post(http, **given)).json()["error"]
    assert error["param"] == "tool_choice"
    assert why in error["message"]
    assert coordinator.asked == []


async def test_openais_client_parses_an_answer_into_its_own_class(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.result = dataclasses.replace(RESULT, text='{"name": "Ulm", "people": 126000}')
    talk: Any = HELLO
    answer = await peer.chat.completions.parse(model="tiny", messages=talk, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Ulm", people=126000)
    assert json.loads(asked(coordinator).json_schema)["required"] == ["name", "people"]


async def test_our_own_api_takes_them_by_its_own_names(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    given: dict[str, Any] = {"json_schema": SCHEMA, "tools": [json.dumps(PING)], "called_tools": ["ping"], "parallel_tool_calls": False}
    answer = await http.post("/api/v1/generate", json={"prompt": "x", "stream": False, **given})
    assert answer.status_code == 200
    request = asked(coordinator)
    assert json.loads(request.json_schema) == SCHEMA
    assert (request.called_tools, request.parallel_tool_calls) == (("ping",), False)
