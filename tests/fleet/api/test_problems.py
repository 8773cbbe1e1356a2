"""What is wrong with a body, in both APIs' shapes: one sentence that names the place and says what may stand there."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.fake_coordinator import FakeCoordinator

CHAT, TEXT, OURS = "/v1/chat/completions", "/v1/completions", "/api/v1/generate"
HELLO = [{"role": "user", "content": "hello"}]
CALL = {"function": {"name": "f", "arguments": 5}}
MISSING, TYPE, VALUE, UNKNOWN, UNSUPPORTED = (
    "missing_required_parameter",
    "invalid_type",
    "invalid_value",
    "unknown_parameter",
    "unsupported_parameter",
)


async def refused(http: httpx.AsyncClient, path: str, body: object) -> dict[str, Any]:
    answer = await http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    return dict(answer.json()["error"])


def said(content: object, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


CHATS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"messages": []}, "messages", VALUE, "messages is an empty list: it must be a list of at least 1 item"),
    ({"messages": "hi"}, "messages", TYPE, 'messages is "hi": it must be a list'),
    ({"messages": ["hi"]}, "messages[0]", TYPE, 'messages[0] is "hi": it must be an object'),
    (said(5), "messages[0].content", TYPE, "messages[0].content is 5: it must be a string or a list"),
    (said({"str": 1}), "messages[0].content", TYPE, "messages[0].content is an object: it must be a string or a list"),
    (said([{"type": "text", "text": "x"}, 5]), "messages[0].content[1]", TYPE, "messages[0].content[1] is 5: it must be an object"),
    (said([{"type": 5}]), "messages[0].content[0].type", TYPE, "messages[0].content[0].type is 5: it must be a string"),
    (said(None), "messages[0].content", TYPE, "messages[0].content is null: it must be a string, or a list of parts"),
    (said([]), "messages[0].content", VALUE, "messages[0].content is an empty list: it must be a string, or a list of parts"),
    (said(None, "tool"), "messages[0].content", TYPE, "messages[0].content is null: it must be a string, or a list of parts"),
    (said([], "system"), "messages[0].content", VALUE, "messages[0].content is an empty list: it must be a string, or a list of parts"),
    ({"messages": [*HELLO, {"role": "user"}]}, "messages[1].content", MISSING, "messages[1].content is missing"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", MISSING, "messages[0].role is missing"),
    (said("x", "usr"), "messages[0].role", VALUE, 'messages[0].role is "usr": it must be one of system, developer, user, assistant, tool'),
    (
        {"messages": [{"role": "assistant", "tool_calls": [CALL]}]},
        "messages[0].tool_calls[0].function.arguments",
        TYPE,
        "messages[0].tool_calls[0].function.arguments is 5: it must be a string or an object",
    ),
    ({"top_p": 0}, "top_p", VALUE, "top_p is 0: it must be a number, above 0 and at most 1"),
    ({"temperature": float("nan")}, "temperature", VALUE, "temperature is NaN: it must be a number, at least 0 and at most 2"),
    ({"temperature": float("inf")}, "temperature", VALUE, "temperature is Infinity: it must be a number, at least 0 and at most 2"),
    ({"max_tokens": 0}, "max_tokens", VALUE, "max_tokens is 0: it must be at least 1"),
    ({"max_tokens": "x"}, "max_tokens", VALUE, 'max_tokens is "x": it must be an integer'),
    ({"stop": ["a", 5]}, "stop[1]", TYPE, "stop[1] is 5: it must be a string"),
    ({"stop": ["a"] * 17}, "stop", VALUE, "stop is a list of 17 items: it must be a list of at most 16 items"),
    ({"bad_words": [""]}, "bad_words[0]", VALUE, 'bad_words[0] is "": it must be a string of at least 1 character'),
    ({"stream": "maybe"}, "stream", VALUE, 'stream is "maybe": it must be true or false'),
    ({"thinking": {"type": "x"}}, "thinking.type", VALUE, "thinking.type is \"x\": it must be 'enabled' or 'disabled'"),
    ({"thinking": {"type": "enabled", "x": 1}}, "thinking.x", UNKNOWN, "thinking.x is not a field that is known here"),
    ({"prompt": "x"}, "prompt", UNSUPPORTED, "prompt is not a field that is known here (send it to /v1/completions)"),
    ({"model": None}, "model", TYPE, "model is null: it must be a string"),
]


@pytest.mark.parametrize(("given", "param", "code", "message"), CHATS)
async def test_a_chat_is_refused_as_openai_would(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, given: dict[str, Any], param: str, code: str, message: str
) -> None:
    error = await refused(http, CHAT, {"model": "tiny", "messages": HELLO, **given})
    assert error == {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    assert coordinator.asked == []


@pytest.mark.parametrize(
    ("prompt", "param", "code", "message"),
    [
        (5, "prompt", TYPE, "prompt is 5: it must be a string or a list"),
        ([1, -2], "prompt[1]", VALUE, "prompt[1] is -2: it must be at least 0"),
        (["a", 5], "prompt[1]", TYPE, "prompt[1] is 5: it must be a string"),
        ([[1], "a"], "prompt[1]", TYPE, 'prompt[1] is "a": it must be a list'),
        ([[1, -2]], "prompt[0][1]", VALUE, "prompt[0][1] is -2: it must be at least 0"),
        ([], "prompt", VALUE, "prompt is empty: it must be a string or a list of token ids, with something in it"),
        ([[]], "prompt", VALUE, "prompt is empty: it must be a string or a list of token ids, with something in it"),
    ],
)
async def test_a_prompt_is_judged_as_the_type_that_it_nearly_is(
    http: httpx.AsyncClient, prompt: object, param: str, code: str, message: str
) -> None:
    error = await refused(http, TEXT, {"model": "tiny", "prompt": prompt})
    assert (error["param"], error["code"], error["message"]) == (param, code, message)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"prompt": "x", "top_p": 0}, "top_p is 0: it must be a number, above 0 and at most 1"),
        ({"prompt": 5}, "prompt is 5: it must be a string"),
        (said("x", "usr"), "messages[0].role is \"usr\": it must be 'system', 'user', 'assistant', 'tool' or 'observation'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content is missing"),
        ({"prompt": "x", "tempurature": 1}, "tempurature is not a field that is known here"),
        ([1], "the body is a list of 1 item: it must be an object"),
    ],
)
async def test_our_own_api_says_it_in_its_shape(http: httpx.AsyncClient, body: object, detail: str) -> None:
    assert await refused(http, OURS, body) == {"code": "InvalidInput", "detail": detail, "advice": ""}


async def test_an_assistant_may_have_said_nothing(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    talk = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}, {"role": "tool", "content": "x"}]
    assert (await http.post(CHAT, json={"model": "tiny", "messages": talk})).status_code == 200
    assert len(coordinator.asked) == 1


async def test_what_was_sent_is_told_in_few_words_and_can_be_written_down(http: httpx.AsyncClient) -> None:
    error = await refused(http, CHAT, {"model": "tiny", "messages": HELLO, "stop": "a" * 100_000, "top_p": "ü\n" * 50_000})
    assert len(error["message"]) < 200
    assert "\n" not in error["message"]
    answer = await http.post(CHAT, content=b'{"model": "tiny", "messages": "\\ud800"}', headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "messages" in answer.json()["error"]["message"]


async def test_a_query_is_no_body(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/v1/telemetry?by=moon")
    assert answer.json()["error"]["detail"] == "by is \"moon\": it must be 'device', 'model', 'deployment' or 'request'"
    answer = await http.get("/api/v1/telemetry?since=nan")
    assert answer.json()["error"]["detail"] == 'since is "nan": it must be above 0'
