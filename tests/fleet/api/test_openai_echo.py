"""A prompt told back, with its log probabilities, in OpenAI's shape."""

from __future__ import annotations

import dataclasses
from typing import Any

import httpx
import openai
import pytest

from fleet.answering.views import GenerateRequest, LikelyToken, PromptChunk, PromptToken, TokenChunk, TokenLogprobs
from tests.support.fake_coordinator import RESULT, FakeCoordinator
from tests.support.openai_requests import CHAT, HELLO, TEXT, asked, chunks_of

A, B = LikelyToken(5, "A", (65,), -0.5), LikelyToken(6, " b", (32, 98), -1.0)
BEGIN = PromptToken(1, "[gMASK]", tuple(b"[gMASK]"))
PROMPT = (BEGIN, PromptToken(7, "Be", tuple(b"Be"), -2.0, (A, B)), PromptToken(8, " brief", tuple(b" brief"), -3.0, (A,)))
ANSWER = (TokenLogprobs(5, "A", (65,), -0.5, (A,)),)


@pytest.fixture
def read(coordinator: FakeCoordinator) -> FakeCoordinator:
    coordinator.chunks = (PromptChunk("", (), prompt=PROMPT), TokenChunk("A", (5,), logprobs=ANSWER))
    coordinator.result = dataclasses.replace(RESULT, text="A", token_ids=(5,), logprobs=ANSWER, prompt=PROMPT)
    return coordinator


async def test_openais_client_gets_its_prompt_before_the_answer(peer: openai.AsyncOpenAI, read: FakeCoordinator) -> None:
    wish: Any = {"model": "tiny", "prompt": "Be brief", "echo": True, "logprobs": 2}
    whole = (await peer.completions.create(**wish)).choices[0]
    assert (asked(read).echo, asked(read).prompt_logprobs, asked(read).logprobs) == (True, 2, 2)
    assert whole.text == "Be briefA"
    assert whole.logprobs is not None
    assert whole.logprobs.tokens == ["[gMASK]", "Be", " brief", "A"]
    assert whole.logprobs.token_logprobs == [None, -2.0, -3.0, -0.5]
    assert whole.logprobs.top_logprobs == [None, {"A": -0.5, " b": -1.0, "Be": -2.0}, {"A": -0.5, " brief": -3.0}, {"A": -0.5}]
    assert whole.logprobs.text_offset == [0, 0, 2, 8], "what the tokenizer puts before a text is not in it"
    parts = [chunk.choices[0] async for chunk in await peer.completions.create(**wish, stream=True)]
    assert [part.text for part in parts] == ["Be brief", "A", ""]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [one for part in parts if part.logprobs for one in getattr(part.logprobs, name)] == getattr(whole.logprobs, name)


async def test_token_ids_are_told_as_what_they_stand_for(http: httpx.AsyncClient, read: FakeCoordinator) -> None:
    answer = (await http.post(TEXT, json={"model": "tiny", "prompt": [1, 7, 8], "echo": True})).json()["choices"][0]
    assert (answer["text"], answer["logprobs"]) == ("[gMASK]Be briefA", None)
    assert (asked(read).prompt_logprobs, asked(read).prompt_ids) == (None, (1, 7, 8))


async def test_a_prompt_may_be_rated_without_an_answer(http: httpx.AsyncClient, read: FakeCoordinator) -> None:
    read.chunks, read.result = read.chunks[:1], dataclasses.replace(read.result, text="", token_ids=(), logprobs=(), completion_tokens=0)
    body = {"model": "tiny", "prompt": ["Be brief"] * 40, "echo": True, "logprobs": 0, "max_tokens": 0}
    answer = (await http.post(TEXT, json=body)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["Be brief"] * 40
    assert answer["choices"][39]["logprobs"]["token_logprobs"] == [None, -2.0, -3.0]
    assert {one.max_tokens for one in read.asked if isinstance(one, GenerateRequest)} == {0}
    read.asked.clear()
    chunks: list[Any] = chunks_of(await http.post(TEXT, json={**body, "prompt": "Be brief", "stream": True}))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Be brief", ""]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("path", "given", "param"),
    [
        (TEXT, {"max_tokens": 0}, "max_tokens"),
        (TEXT, {"max_tokens": 0, "echo": False}, "max_tokens"),
        (TEXT, {"prompt": ["x"] * 257, "max_tokens": 0, "echo": True}, "prompt"),
        (TEXT, {"prompt": ["x"] * 17, "max_tokens": 1, "echo": True}, "prompt"),
        (TEXT, {"prompt_logprobs": 1}, "prompt_logprobs"),
        (CHAT, {"echo": True}, "echo"),
        (CHAT, {"suffix": "x"}, "suffix"),
        (CHAT, {"max_tokens": 0}, "max_tokens"),
    ],
)
async def test_what_cannot_be_told_is_refused_by_name(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, path: str, given: dict[str, Any], param: str
) -> None:
    body = {"model": "tiny", **({"messages": HELLO} if path == CHAT else {"prompt": "x"}), **given}
    answer = await http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert coordinator.asked == []


async def test_a_suffix_is_what_follows_the_answer(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    assert (await http.post(TEXT, json={"model": "tiny", "prompt": "x", "suffix": "y"})).status_code == 200
    assert asked(coordinator).suffix == "y"
    coordinator.asked.clear()
    assert (await http.post(TEXT, json={"model": "tiny", "prompt": "x", "suffix": ""})).status_code == 200
    assert asked(coordinator).suffix is None


async def test_our_own_api_tells_a_prompt_as_an_event_of_its_own(read: FakeCoordinator, http: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "text": "Be brief", "echo": True, "prompt_logprobs": 2}
    stream = (await http.post("/api/v1/generate", json=body)).text
    assert [line for line in stream.splitlines() if line.startswith("event")] == ["event: prompt", "event: token", "event: done"]
    whole = (await http.post("/api/v1/generate", json={**body, "stream": False})).json()
    assert [token["logprob"] for token in whole["prompt"]] == [None, -2.0, -3.0]
    assert whole["prompt"][1]["likeliest"][0] == {"token_id": 5, "text": "A", "bytes": [65], "logprob": -0.5}
    answer = await http.post("/api/v1/generate", json={"prompt": "x", "max_tokens": 0})
    assert answer.json()["error"]["detail"].startswith("max_tokens is 0: it must be at least 1")
