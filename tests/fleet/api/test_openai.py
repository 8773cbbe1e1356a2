from __future__ import annotations

import dataclasses
import json
from typing import Any

import httpx
import openai
import pytest

from device.text.messages import Message, ToolCall
from fleet.deploying.views import DeploymentView
from fleet.trust.api_key import authenticator
from protos.errors import Busy, InvalidInput, NotFound, Unavailable
from protos.sampling import Sampling
from tests.support.fake_coordinator import DEPLOYMENT, RESULT, FakeCoordinator
from tests.support.openai_requests import CALL, CHAT, HELLO, TEXT, TOOL, asked, chunks_of
from tests.support.shared_app import shared_app


async def test_openais_client_gets_a_whole_chat(peer: openai.AsyncOpenAI) -> None:
    answer = await peer.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello"}])
    assert answer.choices[0].message.content == RESULT.text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 3, 7)


async def test_openais_client_gets_a_streamed_chat(peer: openai.AsyncOpenAI) -> None:
    stream = await peer.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello"}], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Paris is"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7
    assert len({chunk.id for chunk in chunks}) == 1


async def test_openais_client_gets_plain_completions(peer: openai.AsyncOpenAI) -> None:
    whole = await peer.completions.create(model="tiny", prompt="Once")
    assert whole.choices[0].text == RESULT.text
    stream = await peer.completions.create(model="tiny", prompt="Once", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "Paris is"


async def test_openais_client_lists_models(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.deployed.append(DeploymentView("old", "", "", "unreadable", "of another version", (), 0, 0, 1))  # it answers nobody
    assert [model.id async for model in peer.models.list()] == ["tiny"]
    assert (await peer.models.retrieve("tiny")).owned_by == "glmfleet"
    with pytest.raises(openai.NotFoundError, match="no deployment big"):
        await peer.models.retrieve("big")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (InvalidInput("x"), openai.BadRequestError),
        (NotFound("x"), openai.NotFoundError),
        (Busy("x", retry_after_seconds=1), openai.RateLimitError),
        (Unavailable("x"), openai.InternalServerError),
    ],
)
async def test_openais_client_raises_its_own_errors(
    coordinator: FakeCoordinator, peer: openai.AsyncOpenAI, error: Exception, raised: type[Exception]
) -> None:
    coordinator.error = error
    with pytest.raises(raised):
        await peer.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("asked_for", ["prod", "tiny"])
@pytest.mark.parametrize("state", ["deploying", "degraded"])
async def test_a_deployment_that_is_not_ready_is_not_a_model_that_is_missing(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, stream: bool, asked_for: str, state: Any
) -> None:
    coordinator.deployed = [dataclasses.replace(DEPLOYMENT, name="prod", state=state, detail="dev-1 is offline")]
    coordinator.error = NotFound("no model is deployed")
    answer = await http.post(TEXT, json={"model": asked_for, "prompt": "x", "stream": stream})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"], answer.headers["retry-after"]) == (503, None, "server_error", "5")
    assert error["message"].startswith(f"prod is {state}: dev-1 is offline")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_that_nobody_deployed_is_missing(coordinator: FakeCoordinator, http: httpx.AsyncClient, stream: bool) -> None:
    coordinator.deployed = [dataclasses.replace(DEPLOYMENT, state="deploying")]
    coordinator.error = NotFound("no model 'big' is deployed")
    answer = await http.post(TEXT, json={"model": "big", "prompt": "x", "stream": stream})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_openais_client_sees_an_error_in_the_middle(coordinator: FakeCoordinator, peer: openai.AsyncOpenAI) -> None:
    coordinator.error, coordinator.error_at = Unavailable("dev-1: gone"), 1
    stream = await peer.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello"}], stream=True)
    with pytest.raises(openai.APIError, match="dev-1: gone"):
        _ = [chunk async for chunk in stream]


async def test_a_wrong_key_in_openais_shape(coordinator: FakeCoordinator) -> None:
    transport = httpx.ASGITransport(shared_app(coordinator, authenticator("secret")))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answer = await http.post(CHAT, json={"model": "tiny", "messages": HELLO})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_fields_of_a_chat_become_ours(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    body = {
        "model": "tiny",
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None},
        ],
        "max_tokens": 9,
        "max_completion_tokens": 7,
        "top_p": 0.5,
        "seed": -1,
        "stop": "END",
        "user": "somebody",
        "metadata": {"a": "b"},
    }
    assert (await http.post(CHAT, json=body)).status_code == 200
    request = asked(coordinator)
    assert [(message.role, message.content) for message in request.messages] == [("system", "be brief"), ("user", "ab"), ("assistant", "")]
    assert (request.max_tokens, request.sampling) == (7, Sampling(temperature=1.0, top_p=0.5, seed=(1 << 64) - 1))
    assert request.stop == ("END",)
    assert not request.ignore_eos
    assert not request.reuse_decoded


async def test_a_turn_may_take_over_what_was_decoded(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "messages": HELLO, "reuse_decoded": True}
    assert (await http.post(CHAT, json=body)).status_code == 200
    assert asked(coordinator).reuse_decoded


async def test_an_answer_may_go_on_behind_its_end(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 9, "ignore_eos": True}
    assert (await http.post(CHAT, json=body)).status_code == 200
    assert asked(coordinator).ignore_eos


@pytest.mark.parametrize(("prompt", "text", "ids"), [("a", "a", ()), (["a"], "a", ()), ([1, 2], None, (1, 2)), ([[1, 2]], None, (1, 2))])
async def test_prompts_of_plain_completions(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, prompt: object, text: str | None, ids: tuple[int, ...]
) -> None:
    assert (await http.post(TEXT, json={"model": "tiny", "prompt": prompt})).status_code == 200
    request = asked(coordinator)
    assert (request.text, request.prompt_ids, request.max_tokens) == (text, ids, 16)


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        (CHAT, "modalities", ["text", "audio"]),
        (CHAT, "echo", True),
        (CHAT, "suffix", "end"),
        (TEXT, "best_of", 3),
    ],
)
async def test_what_would_change_the_answer_is_refused(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, path: str, field: str, value: object
) -> None:
    answer = await http.post(path, json={"model": "tiny", **({"messages": HELLO} if path == CHAT else {"prompt": "x"}), field: value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", field, "unsupported_parameter")
    assert coordinator.asked == []


@pytest.mark.parametrize(
    "message",
    [
        {"role": "function", "content": "x", "name": "f"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
    ],
)
async def test_messages_that_are_not_text_are_refused(http: httpx.AsyncClient, message: dict[str, object]) -> None:
    answer = await http.post(CHAT, json={"model": "tiny", "messages": [message]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("messages[0].")


IMAGE = {"url": "data:image/png;base64,iVBORw0KGgo="}


@pytest.mark.parametrize(
    ("message", "param", "says"),
    [
        ({"content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": IMAGE}]}, "content[1]", "images"),
        ({"content": [{"type": "image", "url": "http://x/a.png"}]}, "content[0]", "images"),
        ({"content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}, "content[0]", "images"),
        ({"content": [{"type": "input_image", "image_url": "http://x/a.png"}]}, "content[0]", "images"),
        ({"content": [{"image": "http://x/a.png"}]}, "content[0]", "images"),
        ({"content": [{"type": "text", "text": "x", "image_url": IMAGE}]}, "content[0]", "images"),
        ({"content": [{"type": "video_url", "video_url": IMAGE}]}, "content[0]", "videos"),
        ({"content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}, "content[0]", "sounds"),
        ({"content": [{"type": "file", "file": {"file_id": "f"}}]}, "content[0]", "files"),
        ({"content": "What is this?", "images": ["iVBORw0KGgo="]}, "images", "images"),
        ({"content": [{"text": "x"}]}, "content[0]", "content of type '' is not supported"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_images_and_the_like_are_refused_in_one_line(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, message: dict[str, object], param: str, says: str
) -> None:
    answer = await http.post(CHAT, json={"model": "tiny", "messages": [*HELLO, {"role": "user", **message}]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (f"messages[{len(HELLO)}].{param}".rstrip("."), "unsupported_parameter")
    assert error["message"].startswith(says)
    assert "\n" not in error["message"]
    assert coordinator.asked == []


@pytest.mark.parametrize("kind", ["text", "input_text"])
async def test_parts_of_text_are_one_text(coordinator: FakeCoordinator, http: httpx.AsyncClient, kind: str) -> None:
    parts = [{"type": kind, "text": "Hel"}, {"type": kind, "text": "lo"}]
    answer = await http.post(CHAT, json={"model": "tiny", "messages": [{"role": "user", "content": parts, "images": []}]})
    assert answer.status_code == 200
    assert asked(coordinator).messages[0].content == "Hello"


async def test_values_that_ask_for_nothing_are_fine(http: httpx.AsyncClient) -> None:
    nothing = {
        "n": 1,
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "logprobs": False,
        "presence_penalty": 0,
        "stop": None,
        "stream_options": None,
    }
    assert (await http.post(CHAT, json={"model": "tiny", "messages": HELLO, **nothing})).status_code == 200


@pytest.mark.parametrize(
    "body",
    [{"messages": HELLO}, {"model": "tiny"}, {"model": "tiny", "messages": []}, {"model": "tiny", "messages": HELLO, "temperature": 3}],
)
async def test_what_is_not_valid_has_openais_shape(http: httpx.AsyncClient, body: dict[str, object]) -> None:
    answer = await http.post(CHAT, json=body)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("include_usage", [True, False])
async def test_usage_comes_only_when_asked_for(http: httpx.AsyncClient, include_usage: bool) -> None:
    body = {"model": "tiny", "prompt": "x", "stream": True, "stream_options": {"include_usage": include_usage}}
    chunks = chunks_of(await http.post(TEXT, json=body))
    assert [bool(chunk.get("usage")) for chunk in chunks] == [False] * (len(chunks) - 1) + [include_usage]


async def test_an_answer_cut_by_the_limit_says_length(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    coordinator.result = dataclasses.replace(RESULT, finish_reason="length")
    answer = await http.post(CHAT, json={"model": "tiny", "messages": HELLO})
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    chunks = chunks_of(await http.post(CHAT, json={"model": "tiny", "messages": HELLO, "stream": True}))
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"  # type: ignore[index]


async def test_tools_go_in_and_calls_come_out(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.result = dataclasses.replace(RESULT, text='get_weather\n{"city": "Ulm"}')
    talk: Any = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "snow"},
    ]
    answer = await peer.chat.completions.create(model="tiny", messages=talk, tools=[TOOL])
    request = asked(coordinator)
    assert [json.loads(tool) for tool in request.tools] == [TOOL]
    assert request.messages[1:] == (Message("assistant", "", (ToolCall("get_weather", '{"city": "Ulm"}'),)), Message("tool", "snow"))
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Ulm"})


@pytest.mark.parametrize("text", ['get_weather\n{"city": "Ulm"}', "It snows."])
async def test_a_stream_with_tools_says_at_its_end_what_it_was(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator, text: str) -> None:
    coordinator.result = dataclasses.replace(RESULT, text=text)
    hello: Any = HELLO
    stream = await peer.chat.completions.create(model="tiny", messages=hello, tools=[TOOL], stream=True)
    choices = [chunk.choices[0] async for chunk in stream]
    said = "".join(choice.delta.content or "" for choice in choices)
    calls = [call for choice in choices for call in choice.delta.tool_calls or ()]
    if text == "It snows.":
        assert (said, calls, choices[-1].finish_reason) == (text, [], "stop")
    else:
        assert (said, choices[-1].finish_reason) == ("", "tool_calls")
        assert [(call.index, call.function and call.function.name) for call in calls] == [(0, "get_weather")]


async def test_tools_that_may_not_be_chosen_are_not_told(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    answer = await http.post(CHAT, json={"model": "tiny", "messages": HELLO, "tools": [TOOL], "tool_choice": "none"})
    assert answer.status_code == 200
    assert asked(coordinator).tools == ()
    answer = await http.post(CHAT, json={"model": "tiny", "messages": HELLO, "tools": [{"function": {"name": "a b"}}]})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (json.dumps({"messages": HELLO}), "application/x-www-form-urlencoded", "send Content-Type: application/json"),  # as curl -d does
        ('{"messages": [', "application/json", "the body is not JSON"),
    ],
)
async def test_a_body_that_cannot_be_read_says_why(http: httpx.AsyncClient, body: str, kind: str, message: str) -> None:
    answer = await http.post(CHAT, content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


async def test_open_webui_finds_what_it_reads_of_models(http: httpx.AsyncClient) -> None:
    """Its backend takes `data`, unless there is an `error`, and of each model `id` (open_webui/routers/openai.py, merge_models_lists)."""
    found = (await http.get("/v1/models")).json()
    assert "error" not in found
    assert found["object"] == "list"
    assert [(model["id"], model["object"], type(model["created"]), model["owned_by"]) for model in found["data"]] == [
        ("tiny", "model", int, "glmfleet")
    ]
