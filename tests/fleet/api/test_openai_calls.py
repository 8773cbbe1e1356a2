"""What a model thinks, and the tools that it calls, in OpenAI's shape."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import httpx
import openai
import pytest

from device.text.messages import ToolCall
from fleet.answering.views import TokenChunk
from tests.support.fake_coordinator import RESULT, FakeCoordinator
from tests.support.openai_requests import CALL, CHAT, HELLO, TEXT, TOOL, asked, chunks_of

THOUGHT = "\n<think>two and two</think>\n\nFour."


def given(coordinator: FakeCoordinator, *pieces: str, in_thought: bool = False) -> None:
    coordinator.chunks = tuple(TokenChunk(text, (5,), in_thought) for text in pieces)
    coordinator.result = dataclasses.replace(RESULT, text="".join(pieces), in_thought=in_thought)


def deltas_of(answer: httpx.Response, name: str) -> list[Any]:
    deltas: list[Any] = [chunk["choices"][0]["delta"] for chunk in chunks_of(answer)]  # type: ignore[index]
    return [delta[name] for delta in deltas if delta.get(name)]


@pytest.mark.parametrize(
    ("text", "in_thought", "thought", "said"),
    [
        (THOUGHT, False, "two and two", "Four."),
        ("two and two</think>\nFour.", True, "two and two", "Four."),
        ("two and two</think>\nFour.", False, "two and two", "Four."),
        ("<think>two and", False, "two and", ""),
        ("\nFour.\n", False, None, "Four.\n"),
    ],
)
@pytest.mark.parametrize("tools", [[], [TOOL]])
async def test_what_was_thought_is_told_apart(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, text: str, in_thought: bool, thought: str | None, said: str, tools: list[Any]
) -> None:
    given(coordinator, text, in_thought=in_thought)
    body = {"model": "tiny", "messages": HELLO, "tools": tools}
    message = (await http.post(CHAT, json=body)).json()["choices"][0]["message"]
    assert (message.get("reasoning_content"), message["content"]) == (thought, said)
    answer = await http.post(CHAT, json={**body, "stream": True})
    assert "".join(deltas_of(answer, "reasoning_content")) == (thought or "")
    assert "".join(deltas_of(answer, "content")) == said


@pytest.mark.parametrize("tools", [[], [TOOL]])
async def test_a_thought_comes_as_it_is_thought(coordinator: FakeCoordinator, http: httpx.AsyncClient, tools: list[Any]) -> None:
    given(coordinator, "\n<think>", "step one ", "step two", "</think>", "\nDone ", "and ", "dusted")
    answer = await http.post(CHAT, json={"model": "tiny", "messages": HELLO, "tools": tools, "stream": True})
    assert deltas_of(answer, "reasoning_content") == ["step one ", "step two"]
    assert deltas_of(answer, "content") == (["Done and dusted"] if tools else ["Done ", "and ", "dusted"])


async def test_a_raw_completion_is_as_it_came(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    given(coordinator, THOUGHT)
    assert (await http.post(TEXT, json={"model": "tiny", "prompt": "x"})).json()["choices"][0]["text"] == THOUGHT


async def test_openais_client_reads_a_thought(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    given(coordinator, THOUGHT)
    answer = await peer.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "2 + 2"}])
    assert answer.choices[0].message.model_extra == {"reasoning_content": "two and two"}


ZIP: Any = {"function": {"name": "set_zip", "parameters": {"properties": {"code": {"type": "string"}, "count": {"type": "integer"}}}}}
SET_ZIP = (
    "<tool_call>set_zip\n<arg_key>code</arg_key>\n<arg_value>90210</arg_value>\n"
    "<arg_key>count</arg_key>\n<arg_value>3</arg_value>\n</tool_call>"
)


@pytest.mark.parametrize(
    ("text", "thought", "said", "arguments"),
    [
        (SET_ZIP, None, None, [{"code": "90210", "count": 3}]),
        (f"<think>I could {SET_ZIP} now</think>\n{SET_ZIP}{SET_ZIP}", f"I could {SET_ZIP} now", None, [{"code": "90210", "count": 3}] * 2),
        (f"<think>I could {SET_ZIP}</think>\nNo call needed.", f"I could {SET_ZIP}", "No call needed.", []),
        (f"so be it</think>{SET_ZIP}", "so be it", None, [{"code": "90210", "count": 3}]),
        ('<think>so</think>\nset_zip\n{"code": "1"}set_zip\n{"code": "2"}', "so", None, [{"code": "1"}, {"code": "2"}]),
        (SET_ZIP[:-20], None, SET_ZIP[:-20], []),
        (SET_ZIP.replace("<arg_value>90210</arg_value>", ""), None, SET_ZIP.replace("<arg_value>90210</arg_value>", ""), []),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_calls_are_whole_and_typed_or_text(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, text: str, thought: Any, said: Any, arguments: list[Any], stream: bool
) -> None:
    given(coordinator, text)
    answer = await http.post(CHAT, json={"model": "tiny", "messages": HELLO, "tools": [ZIP], "stream": stream})
    if stream:
        (calls,) = deltas_of(answer, "tool_calls") or [[]]
        found = ("".join(deltas_of(answer, "reasoning_content")) or None, "".join(deltas_of(answer, "content")) or None)
        reason: Any = chunks_of(answer)[-1]["choices"][0]["finish_reason"]  # type: ignore[index]
    else:
        (choice,) = answer.json()["choices"]
        calls, reason = choice["message"].get("tool_calls", []), choice["finish_reason"]
        found = (choice["message"].get("reasoning_content"), choice["message"]["content"])
    assert found == (thought, said)
    assert [json.loads(call["function"]["arguments"]) for call in calls] == arguments
    assert reason == ("tool_calls" if arguments else "stop")


@pytest.mark.parametrize(
    ("arguments", "told"), [("", ""), (None, ""), ("null", "null"), ({"city": "Ulm"}, '{"city": "Ulm"}'), ('{"a": 1}', '{"a": 1}')]
)
async def test_a_call_of_before_may_have_no_arguments(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, arguments: object, told: str
) -> None:
    called = {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "ping", "arguments": arguments}}]}
    answer = await http.post(CHAT, json={"model": "tiny", "messages": [*HELLO, called]})
    assert answer.status_code == 200
    assert asked(coordinator).messages[1].tool_calls == (ToolCall("ping", told),)
