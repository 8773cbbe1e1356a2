"""Ollama's API over a scripted coordinator: its shapes, and the requests that they mean."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import httpx
import pytest

from device.text.messages import Message, ToolCall
from fleet.answering.views import GenerateRequest, LikelyToken, TokenChunk, TokenLogprobs
from protos.errors import Busy, Internal, NotFound
from protos.sampling import Sampling
from tests.support.fake_coordinator import DEPLOYMENT, MODEL, RESULT, FakeCoordinator
from tests.support.openai_requests import HELLO, TOOL, asked

CHAT, GENERATE, EMBED = "/api/chat", "/api/generate", "/api/embed"


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


async def ask(http: httpx.AsyncClient, path: str, **body: Any) -> httpx.Response:
    what = {"messages": HELLO} if path == CHAT else {"prompt": "hello"}
    return await http.post(path, json={"model": "tiny", **what, **body})


async def test_models_are_listed_and_shown(http: httpx.AsyncClient) -> None:
    (model,) = (await http.get("/api/tags")).json()["models"]
    assert (model["name"], model["digest"], model["size"]) == ("tiny", DEPLOYMENT.manifest_digest, MODEL.size_bytes)
    assert model["details"] == {
        "parent_model": "",
        "format": "glmfleet",
        "family": "GlmForCausalLM",
        "families": ["GlmForCausalLM"],
        "parameter_size": "1.2M",
        "quantization_level": "int8",
    }
    (ready,) = (await http.get("/api/ps")).json()["models"]
    assert (ready["name"], ready["size_vram"], ready["context_length"]) == ("tiny", MODEL.size_bytes, DEPLOYMENT.context)
    for name in ({"model": "tiny"}, {"model": "tiny:latest"}, {"name": "tiny", "verbose": True}):
        shown = (await http.post("/api/show", json=name)).json()
        assert shown["capabilities"] == ["completion", "tools"]
        assert shown["model_info"]["GlmForCausalLM.context_length"] == DEPLOYMENT.context
    assert (await http.get("/api/version")).json().keys() == {"version", "glmfleet"}


async def test_a_model_that_left_the_store_is_listed_all_the_same(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    coordinator.deployed = [dataclasses.replace(DEPLOYMENT, manifest_digest="e" * 64)]
    (model,) = (await http.get("/api/tags")).json()["models"]
    assert (model["size"], model["details"]["families"]) == (0, [])
    assert (await http.post("/api/show", json={"model": "tiny"})).json()["model_info"] == {}


async def test_a_chat_comes_in_lines(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    *parts, last = lines(await ask(http, CHAT, model="tiny:latest"))
    assert [part["message"] for part in parts] == [{"role": "assistant", "content": text} for text in ("Par", "is is")]
    assert {part["model"] for part in parts} == {"tiny:latest"}
    assert not any(part["done"] for part in parts)
    assert (last["done"], last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == (True, "stop", 4, 3)
    assert (last["total_duration"], last["prompt_eval_duration"], last["eval_duration"]) == (300_000_000, 125_000_000, 175_000_000)
    assert last["energy"] == [{"joules": 1.5, "source": "modelled"}]
    request = asked(coordinator)
    assert (request.model, request.messages, request.max_tokens) == ("tiny", (Message("user", "hello"),), None)
    assert request.sampling == Sampling(temperature=0.8, top_k=40, top_p=0.9)
    assert "temperature" in request.left_to_model


async def test_a_whole_chat_and_a_whole_text(http: httpx.AsyncClient) -> None:
    chat = (await ask(http, CHAT, stream=False)).json()
    assert (chat["message"], chat["done"]) == ({"role": "assistant", "content": RESULT.text}, True)
    text = (await ask(http, GENERATE, stream=False)).json()
    assert (text["response"], text["done_reason"]) == (RESULT.text, "stop")
    *parts, last = lines(await ask(http, GENERATE))
    assert ["".join(part["response"] for part in parts), last["response"]] == [RESULT.text, ""]


async def test_options_mean_what_they_mean_to_ollama(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    options = {
        "num_predict": 7,
        "temperature": 0,
        "top_k": -1,
        "top_p": 0.5,
        "min_p": 0.1,
        "typical_p": 0.9,
        "seed": 3,
        "stop": ["END", ""],
        "repeat_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "num_ctx": 4096,
        "num_gpu": 1,
        "mirostat": 0,
        "tfs_z": 1,
    }
    assert (await ask(http, CHAT, options=options, keep_alive="5m")).status_code == 200
    request = asked(coordinator)
    assert request.sampling == Sampling(
        temperature=0,
        top_k=0,
        top_p=0.5,
        seed=3,
        min_p=0.1,
        repetition_penalty=1.1,
        typical_p=0.9,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
    )
    assert (request.max_tokens, request.stop, request.left_to_model) == (7, ("END",), ())
    for given, penalty in ({"repeat_last_n": 0, "repeat_penalty": 1.5}, 1.0), ({"repeat_last_n": -1, "repeat_penalty": 1.5}, 1.5):
        coordinator.asked.clear()
        await ask(http, CHAT, options={**given, "num_predict": -1, "seed": -1})
        assert (asked(coordinator).sampling.repetition_penalty, asked(coordinator).max_tokens, asked(coordinator).sampling.seed) == (
            penalty,
            None,
            None,
        )


@pytest.mark.parametrize(("given", "schema"), [("json", {"type": "object"}), ({"type": "array"}, {"type": "array"}), ("", None)])
async def test_formats(coordinator: FakeCoordinator, http: httpx.AsyncClient, given: object, schema: object) -> None:
    await ask(http, GENERATE, format=given)
    assert asked(coordinator).json_schema == ("" if schema is None else json.dumps(schema))


@pytest.mark.parametrize(
    ("given", "variables"),
    [
        (None, ""),
        (True, '{"enable_thinking": true}'),
        (False, '{"enable_thinking": false}'),
        ("low", '{"enable_thinking": true, "reasoning_effort": "low"}'),
    ],
)
async def test_thinking(coordinator: FakeCoordinator, http: httpx.AsyncClient, given: object, variables: str) -> None:
    coordinator.chunks = [TokenChunk("<think>so", (5,)), TokenChunk("</think>\nParis", (6,))]
    coordinator.result = dataclasses.replace(RESULT, text="<think>so</think>\nParis")
    for path, text in ((CHAT, lambda one: one["message"]), (GENERATE, lambda one: one)):
        coordinator.asked.clear()
        parts = [text(one) for one in lines(await ask(http, path, think=given))]
        assert asked(coordinator).chat_template_kwargs == variables
        name = "content" if path == CHAT else "response"
        assert "".join(one.get("thinking", "") for one in parts) == "so"
        assert "".join(one[name] for one in parts) == "Paris"
        assert text((await ask(http, path, think=given, stream=False)).json())["thinking"] == "so"


async def test_tools_are_told_called_and_answered(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    coordinator.chunks = [TokenChunk('<tool_call>{"name": "get_weather", "arguments": {"city": "Ulm"}}</tool_call>', (5,))]
    coordinator.result = dataclasses.replace(RESULT, text=coordinator.chunks[0].text)
    call = {"function": {"name": "get_weather", "arguments": {"city": "Ulm"}}}
    part, last = lines(await ask(http, CHAT, tools=[TOOL]))
    assert part["message"] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert last["done_reason"] == "stop"
    assert [json.loads(tool) for tool in asked(coordinator).tools] == [TOOL]
    assert (await ask(http, CHAT, tools=[TOOL], stream=False)).json()["message"]["tool_calls"] == [call]
    coordinator.asked.clear()
    talk = [*HELLO, {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]}]
    await ask(http, CHAT, messages=[*talk, {"role": "tool", "content": "12 C", "tool_name": "get_weather"}])
    assert asked(coordinator).messages[1:] == (
        Message("assistant", "", (ToolCall("get_weather", '{"city": "Ulm"}'),), "hm"),
        Message("tool", "12 C", name="get_weather"),
    )


async def test_log_probabilities(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    other = LikelyToken(6, "B", (66,), -1.0)
    told = (TokenLogprobs(5, "A", (65,), -0.5, (other,)),)
    coordinator.chunks, coordinator.result = [TokenChunk("A", (5,), logprobs=told)], dataclasses.replace(RESULT, text="A", logprobs=told)
    expected = [{"token": "A", "logprob": -0.5, "bytes": [65], "top_logprobs": [{"token": "B", "logprob": -1.0, "bytes": [66]}]}]
    part, last = lines(await ask(http, GENERATE, logprobs=True, top_logprobs=1))
    assert (part["logprobs"], "logprobs" in last, asked(coordinator).logprobs) == (expected, False, 1)
    assert (await ask(http, CHAT, logprobs=True, stream=False)).json()["logprobs"] == expected


async def test_raw_prompts_and_suffixes_use_no_template(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    coordinator.chunks, coordinator.result = [TokenChunk("<think>x", (5,))], dataclasses.replace(RESULT, text="<think>x")
    part, _ = lines(await ask(http, GENERATE, raw=True))
    assert (part["response"], asked(coordinator).text, asked(coordinator).messages) == ("<think>x", "hello", ())
    coordinator.asked.clear()
    await ask(http, GENERATE, suffix="bye")
    assert (asked(coordinator).text, asked(coordinator).suffix) == ("hello", "bye")
    coordinator.asked.clear()
    await ask(http, GENERATE, system="be brief")
    assert [message.role for message in asked(coordinator).messages] == ["system", "user"]


@pytest.mark.parametrize("path", [CHAT, GENERATE])
async def test_who_sends_nothing_is_told_that_the_model_is_there(coordinator: FakeCoordinator, http: httpx.AsyncClient, path: str) -> None:
    answer = await http.post(path, json={"model": "tiny", "keep_alive": 0})
    assert (answer.json()["done"], answer.json()["done_reason"]) == (True, "load")
    assert coordinator.asked == []
    answer = await http.post(path, json={"model": "nil"})
    assert (answer.status_code, answer.json()) == (404, {"error": "model 'nil' not found (GET /api/tags lists them)"})


async def test_embeddings(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    coordinator.chunks, coordinator.result = (), dataclasses.replace(RESULT, embedding=(3.0, 4.0, 12.0))
    answer = (await http.post(EMBED, json={"model": "tiny", "input": ["a", "b"], "truncate": True, "dimensions": 2})).json()
    assert answer["embeddings"] == [pytest.approx([0.6, 0.8])] * 2
    assert answer["prompt_eval_count"] == 8
    assert coordinator.asked == [GenerateRequest(model="tiny", text=text, max_tokens=0, embedding=True) for text in ("a", "b")]
    assert (await http.post(EMBED, json={"model": "tiny", "input": []})).json()["embeddings"] == []


@pytest.mark.parametrize(
    ("path", "given", "name"),
    [
        (CHAT, {"options": {"tempurature": 1}}, "options.tempurature"),
        (CHAT, {"options": {"mirostat": 1}}, "options.mirostat"),
        (CHAT, {"options": {"temperature": -1}}, "options.temperature"),
        (CHAT, {"options": {"repeat_last_n": 64}}, "options.repeat_last_n"),
        (CHAT, {"options": {"repeat_penalty": 1.1, "repetition_penalty": 1.2}}, "options.repeat_penalty"),
        (CHAT, {"prompt": "x"}, "prompt"),
        (CHAT, {"template": "x"}, "template"),
        (CHAT, {"format": "xml"}, "format"),
        (CHAT, {"top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "messages[0].images"),
        (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user", "content": "x", "weight": 1}]}, "messages[0].weight"),
        (GENERATE, {"context": [1]}, "context"),
        (GENERATE, {"images": ["aGk="]}, "images"),
        (GENERATE, {"raw": True, "system": "x"}, "system"),
        (GENERATE, {"suffix": "x", "think": True}, "think"),
        (GENERATE, {"messages": HELLO}, "messages"),
    ],
)
async def test_what_is_not_done_is_refused_by_name(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, path: str, given: dict[str, Any], name: str
) -> None:
    answer = await ask(http, path, **given)
    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}
    assert name in answer.json()["error"]
    assert coordinator.asked == []


async def test_errors_have_ollamas_shape_before_and_in_a_stream(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    coordinator.error = Busy("full", retry_after_seconds=2)
    answer = await ask(http, CHAT)
    assert (answer.status_code, answer.json(), answer.headers["retry-after"]) == (429, {"error": "full"}, "2")
    coordinator.error, coordinator.error_at = Internal("lost", advice="ask again"), 1
    assert lines(await ask(http, CHAT))[-1] == {"error": "lost (ask again)"}
    coordinator.error, coordinator.error_at = NotFound("no deployment nil"), 0
    assert (await ask(http, CHAT, model="nil", stream=False)).json() == {"error": "no deployment nil"}
    for path, status in (("/api/nothing", 404), ("/api/pull", 404)):
        answer = await http.post(path, json={})
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
        assert isinstance(answer.json()["error"], str)


async def test_what_curl_sends_by_itself_is_read(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    body = json.dumps({"model": "tiny", "prompt": "hello"})
    answer = await http.post(GENERATE, content=body, headers={"content-type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 200
    assert (await http.post(GENERATE, content="no JSON")).json() == {"error": "the body is not JSON"}
