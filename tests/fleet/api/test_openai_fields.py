"""Fields that OpenAI's, vLLM's and llama.cpp's clients send: each honoured, harmless or refused by name, none dropped."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import httpx
import pytest

from device.text.messages import Message, ToolCall
from fleet.answering.views import GenerateRequest
from fleet.api.errors import UnsupportedParameter
from fleet.api.openai_fields import CHAT, COMPLETION, MESSAGE, Others
from fleet.api.openai_request import ChatBody, CompletionBody
from protos.sampling import Sampling
from tests.support.fake_coordinator import RESULT, FakeCoordinator

CHATS, TEXTS = "/v1/chat/completions", "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHATS: {"model": "tiny", "messages": [{"role": "user", "content": "x"}]},
    TEXTS: {"model": "tiny", "prompt": "x"},
}
OTHERS = {CHATS: CHAT, TEXTS: COMPLETION}
REFUSED = [(path, name) for path, others in OTHERS.items() for name in sorted(others.refused)]
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


async def post(http: httpx.AsyncClient, path: str, **given: object) -> httpx.Response:
    return await http.post(path, json={**BODIES[path], **given})


def request_of(path: str, **given: object) -> GenerateRequest:
    """Without HTTP: hundreds of bodies are judged here."""
    body = {**BODIES[path], **given}
    return (ChatBody.model_validate(body) if path == CHATS else CompletionBody.model_validate(body)).requests()[0]


def refused_in(path: str, **given: object) -> str | None:
    """The field's name."""
    found: UnsupportedParameter | None = None
    try:
        request_of(path, **given)
    except UnsupportedParameter as error:
        found = error
    assert found is None or (found.param or "") in f"{found.detail} {found.advice}"
    return None if found is None else found.param


def asked(coordinator: FakeCoordinator) -> GenerateRequest:
    (request,) = coordinator.asked
    assert isinstance(request, GenerateRequest)
    return request


def refused(answer: httpx.Response) -> str | None:
    """The field's name."""
    if answer.status_code == 200:
        return None
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (400, "unsupported_parameter", "invalid_request_error")
    assert error["param"] in error["message"]
    return str(error["param"])


def test_no_field_is_in_two_lists() -> None:
    for body, others in ((ChatBody, CHAT), (CompletionBody, COMPLETION)):
        honoured = set(body.model_fields)
        assert not honoured & (others.harmless | others.refused.keys())
        assert not others.harmless & others.refused.keys()


@pytest.mark.parametrize(("path", "name"), REFUSED)
def test_what_asks_for_something_is_refused_by_name_and_null_is_not(path: str, name: str) -> None:
    assert refused_in(path, **{name: {"asks": "for something"}}) == name
    assert refused_in(path, **{name: None}) is None


@pytest.mark.parametrize("value", [0, 1, True, "x", [], {"a": 1}])
@pytest.mark.parametrize("path", BODIES)
def test_what_is_harmless_is_so_with_any_value(path: str, value: object) -> None:
    assert refused_in(path, **dict.fromkeys(OTHERS[path].harmless, value)) is None


@pytest.mark.parametrize("path", BODIES)
async def test_a_field_that_nobody_knows_is_refused(coordinator: FakeCoordinator, http: httpx.AsyncClient, path: str) -> None:
    for name in ("tempurature", "max_new_tokens", "x" * 5000, ""):
        answer = await post(http, path, **{name: 1})
        assert refused(answer) == name[:100]
        assert len(answer.text) < 1000
    assert coordinator.asked == []


@pytest.mark.parametrize(
    ("path", "given", "name"),
    [
        (TEXTS, {"top_logprobs": 2}, "top_logprobs"),
        (TEXTS, {"logprobs": False}, None),
        (CHATS, {"logprobs": False, "top_logprobs": 0}, None),
        (CHATS, {"prompt_logprobs": 0}, "prompt_logprobs"),
        (CHATS, {"repeat_penalty": 0}, "repeat_penalty"),
        (CHATS, {"length_penalty": 0}, "length_penalty"),
        (CHATS, {"best_of": 0}, "best_of"),
        (CHATS, {"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        (CHATS, {"n_predict": 0}, "n_predict"),
        (CHATS, {"thinking_token_budget": 0}, "thinking_token_budget"),
        (CHATS, {"thinking_token_budget": -1}, None),
        (CHATS, {"mirostat": 0, "dry_multiplier": 0.0, "top_n_sigma": -1}, None),
        (CHATS, {"json_schema": {}}, "json_schema"),
        (CHATS, {"guided_choice": ["a", "b"]}, "guided_choice"),
        (CHATS, {"logprobs": True, "return_tokens_as_token_ids": True}, "return_tokens_as_token_ids"),
        (TEXTS, {"logprobs": 1, "return_tokens_as_token_ids": False}, None),
        (CHATS, {"guided_json": {}}, "guided_json"),  # any JSON, and nothing but JSON
        (TEXTS, {"guided_regex": ""}, "guided_regex"),
        (CHATS, {"structured_outputs": {"json": {}}}, "structured_outputs"),
        (CHATS, {"structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        (TEXTS, {"response_format": {"type": "json_object"}}, "response_format"),
        (TEXTS, {"response_format": {"type": "text"}}, None),
        (CHATS, {"continue_final_message": True}, "continue_final_message"),
        (CHATS, {"add_special_tokens": False}, None),
        (TEXTS, {"add_special_tokens": False}, "add_special_tokens"),
        (TEXTS, {"add_special_tokens": True}, None),
        (TEXTS, {"tools": [TOOL]}, "tools"),
        (TEXTS, {"messages": []}, "messages"),
        (TEXTS, {"max_completion_tokens": 4}, "max_completion_tokens"),
        (CHATS, {"prompt": "y"}, "prompt"),
        (CHATS, {"stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
        (CHATS, {"stream_options": {"include_obfuscation": False, "include_usage": None}}, None),
        (CHATS, {"stream_options": {"usage": True}}, "stream_options.usage"),
    ],
)
def test_a_value_counts_as_what_it_is(path: str, given: dict[str, Any], name: str | None) -> None:
    assert refused_in(path, **given) == name


@pytest.mark.parametrize(
    ("given", "message"),
    [({"repeat_penalty": 1.1}, "use repetition_penalty"), ({"n_predict": 5}, "use max_tokens"), ({"functions": [{}]}, "use tools")],
)
def test_where_we_have_another_name_for_it_that_is_said(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        request_of(CHATS, **given)
    assert message in caught.value.advice


@pytest.mark.parametrize("path", BODIES)
async def test_what_decides_about_tokens_arrives(coordinator: FakeCoordinator, http: httpx.AsyncClient, path: str) -> None:
    rules = {"stop_token_ids": [5, 6], "min_tokens": 3, "allowed_token_ids": [7], "bad_words": ["foo", "bar"]}
    penalties: Any = {"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.25}
    assert refused(await post(http, path, **rules, **penalties, logit_bias={"5": -100, "6": 2.5}, typical_p=0.5)) is None
    request = asked(coordinator)
    assert (request.stop_token_ids, request.min_tokens, request.allowed_token_ids) == ((5, 6), 3, (7,))
    assert request.bad_words == ("foo", "bar")
    assert request.logit_bias == ((5, -100.0), (6, 2.5))
    assert request.sampling == Sampling(temperature=1.0, **penalties, typical_p=0.5)


@pytest.mark.parametrize("path", [*BODIES, "/api/v1/generate"])
async def test_what_cannot_be_meant_is_refused_by_name(http: httpx.AsyncClient, path: str) -> None:
    for name, value in (
        ("allowed_token_ids", []),
        ("bad_words", [""]),
        ("min_tokens", -1),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [5] * 961),
        ("bad_words", ["x"] * 257),
        ("bad_words", ["x" * 1001]),
        ("allowed_token_ids", [5] * ((1 << 20) + 1)),
        ("stop", ["x"] * 17),
        ("repetition_penalty", 0),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {str(token): 1 for token in range(16385)}),
        ("typical_p", 0),
        ("max_tokens", 0),
    ):
        answer = await http.post(path, json={**BODIES.get(path, {"prompt": "x"}), name: value})
        assert answer.status_code == 400
        assert name in json.dumps(answer.json()["error"])


VARIABLES = [
    ({"chat_template_kwargs": {"enable_thinking": False, "x": [1]}}, {"enable_thinking": False, "x": [1]}),
    ({"enable_thinking": False}, {"enable_thinking": False}),
    ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
    ({"thinking": {"type": "enabled"}, "enable_thinking": True}, {"enable_thinking": True}),
    ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
    ({"reasoning_effort": "low"}, {"reasoning_effort": "low", "enable_thinking": True}),
    ({"reasoning_effort": "low", "enable_thinking": False}, {"reasoning_effort": "low", "enable_thinking": False}),
    ({"chat_template_kwargs": {}}, None),
    ({"chat_template_kwargs": None, "enable_thinking": None}, None),
]


@pytest.mark.parametrize(("given", "variables"), VARIABLES)
def test_variables_of_the_template_arrive(given: dict[str, Any], variables: dict[str, Any] | None) -> None:
    told = request_of(CHATS, **given).chat_template_kwargs
    assert (json.loads(told) if told else None) == variables


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, "enable_thinking"),
        ({"thinking": {"type": "enabled"}, "enable_thinking": False}, "thinking"),
        ({"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}}, "reasoning_effort"),
    ],
)
def test_what_is_said_twice_and_not_alike_is_refused(given: dict[str, Any], name: str) -> None:
    assert refused_in(CHATS, **given) == name


@pytest.mark.parametrize(("value", "told"), [(False, False), (True, True), (None, True)])
def test_whether_an_answer_is_begun_arrives(value: bool | None, told: bool) -> None:
    assert request_of(CHATS, add_generation_prompt=value).add_generation_prompt is told


def test_what_stands_beside_a_message_arrives() -> None:
    talk = [
        {"role": "user", "content": "a", "name": "Ann", "cache_control": {"type": "ephemeral"}},
        {"role": "assistant", "content": "b", "reasoning_content": "so", "metadata": "m", "refusal": None, "annotations": []},
        {"role": "assistant", "content": "c", "reasoning": "vLLM's name"},
        {"role": "user", "content": [{"type": "text", "text": "d", "cache_control": {}}]},
    ]
    assert request_of(CHATS, messages=talk).messages == (
        Message("user", "a", name="Ann"),
        Message("assistant", "b", reasoning_content="so", metadata="m"),
        Message("assistant", "c", reasoning_content="vLLM's name"),
        Message("user", "d"),
    )


CALL: dict[str, Any] = {"id": "1", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ({"role": "assistant", "content": "x", "prefix": True}, "messages[0].prefix"),
        ({"role": "assistant", "content": "x", "refusal": "no"}, "messages[0].refusal"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "messages[0].audio"),
        ({"role": "user", "content": "x", "weight": 0}, "messages[0].weight"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "lang": "de"}]}, "messages[0].content[0].lang"),
        ({"role": "user", "content": "x", "tools": [TOOL]}, "messages[0].tools"),
        ({"role": "assistant", "tool_calls": [{**CALL, "cost": 1}]}, "messages[0].tool_calls[0].cost"),
        ({"role": "assistant", "tool_calls": [{**CALL, "function": {**CALL["function"], "x": 1}}]}, "messages[0].tool_calls[0].function.x"),
    ],
)
def test_what_is_in_a_message_and_not_told_is_refused(message: dict[str, Any], name: str) -> None:
    assert refused_in(CHATS, messages=[message]) == name


def test_tools_of_a_system_message_are_the_request_s() -> None:
    system = {"role": "system", "content": "be brief", "tools": [TOOL]}
    talk = [system, {"role": "user", "content": "x"}]
    assert [json.loads(tool) for tool in request_of(CHATS, messages=talk).tools] == [TOOL]
    assert refused_in(CHATS, messages=talk, tools=[TOOL]) == "messages[0].tools"
    assert refused_in(CHATS, messages=[system, *talk]) == "messages[1].tools"


def test_results_come_in_the_order_of_their_calls() -> None:
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    results = [{"role": "tool", "tool_call_id": name, "content": f"of {name}"} for name in ("b", "a")]
    strange = [{"role": "tool", "tool_call_id": name, "content": f"of {name}"} for name in ("b", "c")]
    talk = [{"role": "assistant", "tool_calls": calls}]
    called = Message("assistant", "", (ToolCall("a", "{}"), ToolCall("b", "{}")))
    assert request_of(CHATS, messages=[*talk, *results, *talk, *strange]).messages == (
        *(called, Message("tool", "of a"), Message("tool", "of b")),
        *(called, Message("tool", "of b"), Message("tool", "of c")),
    )


async def test_of_several_calls_one_is_told_where_only_one_is_wanted(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    text = "<tool_call>get_weather\n</tool_call>" * 2
    coordinator.result = dataclasses.replace(RESULT, text=text)
    for parallel, count in ((None, 2), (True, 2), (False, 1)):
        answer = await post(http, CHATS, tools=[TOOL], parallel_tool_calls=parallel)
        assert len(answer.json()["choices"][0]["message"]["tool_calls"]) == count


async def test_our_own_reply_may_be_sent_back(http: httpx.AsyncClient) -> None:
    message = (await post(http, CHATS)).json()["choices"][0]["message"]
    assert refused(await post(http, CHATS, messages=[message, {"role": "user", "content": "go on"}])) is None


def test_zero_and_false_are_told_apart() -> None:
    assert isinstance(MESSAGE, Others)
    assert CHAT.refused["echo"](False)
    assert not CHAT.refused["echo"](0)
    assert COMPLETION.refused["top_logprobs"](0)
    assert not COMPLETION.refused["top_logprobs"](False)
