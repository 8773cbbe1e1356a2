"""Several answers of one request, and their log probabilities, in OpenAI's shape."""

from __future__ import annotations

import dataclasses
from typing import Any

import httpx
import openai
import pytest

from fleet.answering.views import GenerateRequest, LikelyToken, TokenChunk, TokenLogprobs
from protos.errors import Unavailable
from tests.support.fake_coordinator import COST, RESULT, FakeCoordinator
from tests.support.openai_requests import CHAT, HELLO, TEXT, TOOL, asked, chunks_of

EURO = "€".encode()


def likely(number: int, raw: bytes, logprob: float) -> LikelyToken:
    return LikelyToken(number, raw.decode(errors="replace"), tuple(raw), logprob)


def told(number: int, raw: bytes, logprob: float, *likeliest: LikelyToken) -> TokenLogprobs:
    return TokenLogprobs(**vars(likely(number, raw, logprob)), likeliest=likeliest)


A, B = likely(5, b"A", -0.5), likely(6, b" b", -1.0)
TOLD = (told(5, b"A", -0.5, A, B), told(7, EURO[:2], -3.0, A), told(8, EURO[2:], -0.25, A), told(6, b" b", -1.0, A))


@pytest.fixture
def rated(coordinator: FakeCoordinator) -> FakeCoordinator:
    """Its answer is "A€ b", and two tokens are one character."""
    coordinator.chunks = (TokenChunk("A", (5,), logprobs=TOLD[:1]), TokenChunk("€", (7, 8), logprobs=TOLD[1:3]))
    coordinator.chunks += (TokenChunk(" b", (6,), logprobs=TOLD[3:]),)
    coordinator.result = dataclasses.replace(RESULT, text="A€ b", token_ids=(5, 7, 8, 6), logprobs=TOLD)
    return coordinator


def requests(coordinator: FakeCoordinator) -> list[GenerateRequest]:
    return [one for one in coordinator.asked if isinstance(one, GenerateRequest)]


async def test_openais_client_reads_log_probabilities_of_a_chat(peer: openai.AsyncOpenAI, rated: FakeCoordinator) -> None:
    talk: Any = HELLO
    answer = await peer.chat.completions.create(model="tiny", messages=talk, logprobs=True, top_logprobs=2)
    assert asked(rated).logprobs == 2
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [one.logprob for one in logprobs.content] == [-0.5, -3.0, -0.25, -1.0]
    assert b"".join(bytes(one.bytes or []) for one in logprobs.content).decode() == "A€ b"
    assert [(one.token, one.logprob) for one in logprobs.content[0].top_logprobs] == [("A", -0.5), (" b", -1.0)]
    stream = await peer.chat.completions.create(model="tiny", messages=talk, logprobs=True, top_logprobs=2, stream=True)
    streamed = [chunk.choices[0].logprobs async for chunk in stream]
    assert [one for each in streamed if each for one in each.content or ()] == logprobs.content


async def test_openais_client_reads_log_probabilities_of_a_completion(peer: openai.AsyncOpenAI, rated: FakeCoordinator) -> None:
    whole = (await peer.completions.create(model="tiny", prompt="x", logprobs=1)).choices[0].logprobs
    assert asked(rated).logprobs == 1
    assert whole is not None
    assert whole.tokens == ["A", "�", "�", " b"]
    assert whole.token_logprobs == [-0.5, -3.0, -0.25, -1.0]
    assert whole.text_offset == [0, 1, 1, 2]
    assert whole.top_logprobs == [{"A": -0.5, " b": -1.0}, {"A": -0.5, "�": -3.0}, {"A": -0.5, "�": -0.25}, {"A": -0.5, " b": -1.0}]
    stream = await peer.completions.create(model="tiny", prompt="x", logprobs=1, stream=True)
    parts = [one async for chunk in stream if (one := chunk.choices[0].logprobs)]
    for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        assert [one for part in parts for one in getattr(part, name)] == getattr(whole, name)


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_they_are_told_only_to_whoever_asks(rated: FakeCoordinator, http: httpx.AsyncClient, path: str) -> None:
    body = {"model": "tiny", **({"messages": HELLO} if path == CHAT else {"prompt": "x"}), "logprobs": False}
    rated.chunks, rated.result = [dataclasses.replace(one, logprobs=()) for one in rated.chunks], dataclasses.replace(RESULT, logprobs=())
    whole = (await http.post(path, json=body)).json()
    assert whole["choices"][0]["logprobs"] is None
    assert asked(rated).logprobs is None
    streamed: list[Any] = chunks_of(await http.post(path, json={**body, "stream": True}))
    assert {str(chunk["choices"][0]["logprobs"]) for chunk in streamed} == {"None"}


async def test_with_tools_they_come_when_it_is_known_what_it_was(rated: FakeCoordinator, http: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "messages": HELLO, "tools": [TOOL], "logprobs": True, "stream": True}
    chunks: list[Any] = chunks_of(await http.post(CHAT, json=body))
    assert [len((chunk["choices"][0]["logprobs"] or {}).get("content", [])) for chunk in chunks] == [0, 4, 0]


async def test_the_likeliest_without_log_probabilities_are_refused(http: httpx.AsyncClient) -> None:
    error = (await http.post(CHAT, json={"model": "tiny", "messages": HELLO, "top_logprobs": 3})).json()["error"]
    assert (error["param"], error["message"]) == ("top_logprobs", "top_logprobs is given without logprobs (send logprobs true with it)")
    for given in (21, -1):
        answer = await http.post(CHAT, json={"model": "tiny", "messages": HELLO, "logprobs": True, "top_logprobs": given})
        assert answer.status_code == 400


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_client_gets_several_choices(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator, stream: bool) -> None:
    coordinator.result = dataclasses.replace(RESULT, reused_tokens=2)
    talk: Any = HELLO
    wish: Any = {"model": "tiny", "messages": talk, "n": 3, "seed": (1 << 64) - 1}
    if stream:
        options: Any = {"include_usage": True}
        chunks = [one async for one in await peer.chat.completions.create(**wish, stream=True, stream_options=options)]
        usage, texts = chunks[-1].usage, ["", "", ""]
        for choice in (choice for chunk in chunks for choice in chunk.choices):
            texts[choice.index] += choice.delta.content or ""
        reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    else:
        whole = await peer.chat.completions.create(**wish)
        assert [choice.index for choice in whole.choices] == [0, 1, 2]
        usage, texts = whole.usage, [choice.message.content or "" for choice in whole.choices]
        reasons = [choice.finish_reason for choice in whole.choices]
    assert texts == [RESULT.text] * 3
    assert reasons == ["stop"] * 3
    assert usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 9, 13), "the prompt counts once"
    assert usage.model_extra == {"seconds": 0.3, "energy": [{"joules": 4.5, "source": "modelled"}]}
    assert [one.sampling.seed for one in requests(coordinator)] == [(1 << 64) - 1, 0, 1]
    assert coordinator.closed == 3


async def test_each_prompt_has_its_choices(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    answer = await peer.completions.create(model="tiny", prompt=["a", "b"], n=2, best_of=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [one.text for one in requests(coordinator)] == ["a", "a", "b", "b"]
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (8, 12)
    await peer.completions.create(model="tiny", prompt=[[1, 2], [3]])
    assert [one.prompt_ids for one in requests(coordinator)[4:]] == [(1, 2), (3,)]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_of_one_choice_ends_all(coordinator: FakeCoordinator, http: httpx.AsyncClient, stream: bool) -> None:
    coordinator.error, coordinator.error_at = Unavailable("dev-1: gone"), 0
    answer = await http.post(CHAT, json={"model": "tiny", "messages": HELLO, "n": 3, "stream": stream})
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "dev-1: gone")
    assert coordinator.closed == len(coordinator.asked)


@pytest.mark.parametrize(("given", "param"), [({"n": 17}, "n"), ({"n": 0}, "n"), ({"n": 2, "best_of": 3}, "best_of")])
async def test_choices_are_bounded(coordinator: FakeCoordinator, http: httpx.AsyncClient, given: dict[str, Any], param: str) -> None:
    answer = await http.post(TEXT, json={"model": "tiny", "prompt": "x", **given})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    many = await http.post(TEXT, json={"model": "tiny", "prompt": ["x"] * 9, "n": 2})
    assert (many.status_code, many.json()["error"]["param"]) == (400, "prompt")
    assert coordinator.asked == []


async def test_energy_that_is_known_in_different_ways_is_never_added(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    measured, unmetered = dataclasses.replace(COST, source="measured"), dataclasses.replace(COST, source="unmetered", joules=None)
    coordinator.result = dataclasses.replace(RESULT, devices=(COST, measured, unmetered, measured))
    usage = (await http.post(TEXT, json={"model": "tiny", "prompt": "x"})).json()["usage"]
    assert usage["energy"] == [
        {"joules": 1.5, "source": "modelled"},
        {"joules": 3.0, "source": "measured"},
        {"joules": None, "source": "unmetered"},
    ]
