"""OpenAI's responses API over a scripted coordinator, read by OpenAI's own client."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseOutputMessage, ResponseReasoningItem

from device.text.messages import Message, ToolCall
from fleet.answering.views import TokenChunk
from protos.errors import Busy, Internal
from protos.sampling import Sampling
from tests.fleet.api.test_openai_choices import TOLD
from tests.support.fake_coordinator import RESULT, FakeCoordinator
from tests.support.openai_requests import asked

ROUTE = "/v1/responses"
TOOL: Any = {"type": "function", "name": "get_weather", "description": "of a city", "parameters": {"type": "object"}, "strict": True}
CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Ulm"}}</tool_call>'


def says(coordinator: FakeCoordinator, *pieces: str, **result: Any) -> None:
    coordinator.chunks = [TokenChunk(text, (5,)) for text in pieces]
    coordinator.result = dataclasses.replace(RESULT, text="".join(pieces), **result)


async def streamed(peer: openai.AsyncOpenAI, **wish: Any) -> list[Any]:
    return [event async for event in await peer.responses.create(model="tiny", input="hello", stream=True, **wish)]


async def test_a_whole_answer(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    answer = await peer.responses.create(model="tiny", input="hello", instructions="be brief", metadata={"a": "b"}, store=True)
    assert (answer.output_text, answer.status, answer.error, answer.incomplete_details) == (RESULT.text, "completed", None, None)
    assert (answer.instructions, answer.metadata, answer.store) == ("be brief", {"a": "b"}, False)  # type: ignore[attr-defined]
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (4, 3, 7)
    assert answer.usage.output_tokens_details.reasoning_tokens == 0
    request = asked(coordinator)
    assert request.messages == (Message("system", "be brief"), Message("user", "hello"))
    assert (request.max_tokens, request.sampling.temperature, "temperature" in request.left_to_model) == (None, 1.0, True)


async def test_events_have_openais_names_in_their_order_and_numbers(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    says(coordinator, "Par", "is")
    events = await streamed(peer, max_output_tokens=9)
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.delta for event in events[4:6]] == ["Par", "is"]
    assert (events[0].response.status, events[0].response.output, events[-1].response.output_text) == ("in_progress", [], "Paris")
    assert {event.item_id for event in events[3:8]} == {events[2].item.id}
    assert asked(coordinator).max_tokens == 9


async def parsed_by_the_clients_own_reader(peer: openai.AsyncOpenAI, **wish: Any) -> Response:
    async with peer.responses.stream(model="tiny", input="hello", **wish) as stream:
        async for _ in stream:
            pass
        return await stream.get_final_response()


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_and_calls_are_items(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator, stream: bool) -> None:
    says(coordinator, "<think>so", "</think>\nI look.", CALL)
    if stream:
        answer = await parsed_by_the_clients_own_reader(peer, tools=[TOOL])
    else:
        answer = await peer.responses.create(model="tiny", input="hello", tools=[TOOL])
    thought, said, called = answer.output
    assert isinstance(thought, ResponseReasoningItem)
    assert isinstance(said, ResponseOutputMessage)
    assert isinstance(called, ResponseFunctionToolCall)
    assert thought.content is not None
    assert (thought.content[0].text, answer.output_text) == ("so", "I look.")
    assert (called.name, json.loads(called.arguments), called.status) == ("get_weather", {"city": "Ulm"}, "completed")
    assert len({thought.id, said.id, called.id}) == 3
    assert answer.usage is not None
    details: dict[str, Any] = answer.usage.output_tokens_details.model_dump()
    assert details["reasoning_tokens"] is None, "they are not counted apart"
    function = {key: value for key, value in TOOL.items() if key != "type"}
    assert [json.loads(tool) for tool in asked(coordinator).tools] == [{"type": "function", "function": function}]


async def test_what_was_answered_may_be_sent_back(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    says(coordinator, "<think>so</think>I look.", CALL, CALL)
    output = (await peer.responses.create(model="tiny", input="hello", tools=[TOOL])).output
    coordinator.asked.clear()
    results: list[Any] = [
        {"type": "function_call_output", "call_id": one.call_id, "output": text}
        for one, text in zip(output[2:], ("rain", [{"type": "input_text", "text": "sun"}]), strict=True)
        if isinstance(one, ResponseFunctionToolCall)
    ]
    talk: list[Any] = [{"role": "user", "content": "hello"}, *(one.model_dump() for one in output), *reversed(results)]
    await peer.responses.create(model="tiny", input=talk, tools=[TOOL])
    call = ToolCall("get_weather", '{"city": "Ulm"}')
    assert asked(coordinator).messages == (
        Message("user", "hello"),
        Message("assistant", "I look.", (call, call), "so"),
        Message("tool", "rain"),
        Message("tool", "sun"),
    )


async def test_an_answer_that_is_cut_off_is_incomplete(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    says(coordinator, "Par", finish_reason="length")
    whole = await peer.responses.create(model="tiny", input="hello")
    *_, last = await streamed(peer)
    for answer in (whole, last.response):
        assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert answer.output[0].status == "incomplete"
    assert last.type == "response.incomplete"


async def test_an_answer_without_a_word_has_a_message_all_the_same(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    says(coordinator)
    for answer in (await peer.responses.create(model="tiny", input="x"), (await streamed(peer))[-1].response):
        assert [item.type for item in answer.output] == ["message"]
        assert answer.output_text == ""


async def test_formats_choices_and_parameters_arrive(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    schema = {"type": "array"}
    body = {
        "model": "tiny",
        "input": [
            {"role": "developer", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "message", "role": "user", "content": "b"},
        ],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "get_weather"},
        "parallel_tool_calls": False,
        "text": {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}, "verbosity": "medium"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "temperature": 0,
        "top_p": 0.5,
        "seed": 7,
        "truncation": "disabled",
        "include": ["reasoning.encrypted_content"],
        "stream_options": {"include_obfuscation": False},
    }
    answer = await http.post(ROUTE, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"]["format"]["schema"] == schema
    request = asked(coordinator)
    assert [message.role for message in request.messages] == ["system", "user"]
    assert (json.loads(request.json_schema), request.called_tools, request.parallel_tool_calls) == (schema, ("get_weather",), False)
    assert request.sampling == Sampling(temperature=0, top_p=0.5, seed=7)
    assert json.loads(request.chat_template_kwargs) == {"reasoning_effort": "low", "enable_thinking": True}


async def test_log_probabilities(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    coordinator.chunks = [TokenChunk("A", (5,), logprobs=TOLD[:1]), TokenChunk("€ b", (7, 8, 6), logprobs=TOLD[1:])]
    coordinator.result = dataclasses.replace(RESULT, text="A€ b", logprobs=TOLD)
    wish: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = await peer.responses.create(model="tiny", input="hello", **wish)
    *_, last = events = await streamed(peer, **wish)
    for answer in (whole, last.response):
        assert [one.logprob for one in answer.output[0].content[0].logprobs] == [-0.5, -3.0, -0.25, -1.0]
    assert [one.logprob for event in events if event.type.endswith("text.delta") for one in event.logprobs] == [-0.5, -3.0, -0.25, -1.0]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 4}, "max_tokens"),
        ({"colour": "red"}, "colour"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": "x", "mood": "glad"}]}, "input[0].mood"),
        ({"input": [{"type": "function_call", "name": "x", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}]}, "input[0].encrypted_content"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{**TOOL, "mood": "glad"}]}, "tools[0].mood"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": [TOOL]}, "tool_choice"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"depth": 1}}, "reasoning.depth"),
        ({"temperature": 3}, "temperature"),
    ],
)
async def test_what_is_not_done_is_refused_by_name(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, given: dict[str, Any], param: str
) -> None:
    answer = await http.post(ROUTE, json={"model": "tiny", "input": "x", **given})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert coordinator.asked == []


async def test_a_key_names_the_request_and_nothing_is_resumed(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "input": "hello"}
    assert (await http.post(ROUTE, json=body, headers={"Idempotency-Key": "k"})).status_code == 200
    assert asked(coordinator).idempotency_key == "k"
    answer = await http.post(ROUTE, json=body, headers={"Idempotency-Key": "k", "Last-Event-ID": "3"})
    assert (answer.status_code, len(coordinator.asked)) == (400, 1)


async def test_an_error_before_the_first_token_has_its_status_and_a_later_one_is_an_event(
    peer: openai.AsyncOpenAI, coordinator: FakeCoordinator
) -> None:
    coordinator.error = Busy("full", retry_after_seconds=2)
    with pytest.raises(openai.RateLimitError):
        await streamed(peer)
    coordinator.error, coordinator.error_at = Internal("lost"), 2
    *_, last = events = await streamed(peer)
    assert (last.type, last.message, last.sequence_number) == ("error", "lost", len(events) - 1)
