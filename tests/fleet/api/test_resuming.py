from __future__ import annotations

import json

import httpx
import pytest

from fleet.answering.views import GenerateRequest
from tests.support.fake_coordinator import CHUNKS, FakeCoordinator

BODY = {"prompt": "hello", "max_tokens": 5}


def ids_of(answer: httpx.Response) -> list[str]:
    return [line.removeprefix("id: ") for line in answer.text.splitlines() if line.startswith("id: ")]


async def test_an_event_says_how_many_tokens_its_reader_has(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    whole = await http.post("/api/v1/generate", json=BODY, headers={"Idempotency-Key": "a key"})
    counts = [sum(len(each.token_ids) for each in CHUNKS[: number + 1]) for number in range(len(CHUNKS))]
    assert ids_of(whole) == [str(count) for count in counts]
    for number, count in enumerate(counts):
        again = await http.post("/api/v1/generate", json=BODY, headers={"Idempotency-Key": "a key", "Last-Event-ID": str(count)})
        assert ids_of(again) == ids_of(whole)[number + 1 :]
        assert again.text == whole.text[whole.text.index(f"id: {count}\n") :].partition("\n\n")[2]
    asked = [request for request in coordinator.asked if isinstance(request, GenerateRequest)]
    assert {request.idempotency_key for request in asked} == {"a key"}
    assert [request.resume_after for request in asked] == [0, *counts]


@pytest.mark.parametrize(("name", "value"), [("Last-Event-ID", "x"), ("Last-Event-ID", "-1"), ("Idempotency-Key", "k" * 256)])
async def test_a_header_that_says_nothing_is_refused(http: httpx.AsyncClient, name: str, value: str) -> None:
    answer = await http.post("/api/v1/generate", json=BODY, headers={name: value})
    assert answer.status_code == 400
    assert name.lower() in answer.text.lower()


@pytest.mark.parametrize(
    ("path", "body"), [("chat/completions", {"messages": [{"role": "user", "content": "hi"}]}), ("completions", {"prompt": "hi"})]
)
async def test_openais_streams_are_resumed_too(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, path: str, body: dict[str, object]
) -> None:
    asked = {"model": "tiny", "stream": True, **body}

    def said(answer: httpx.Response) -> list[str]:
        found = [json.loads(one.removeprefix("data: ")) for one in answer.text.splitlines() if one.startswith("data: {")]
        return [choice.get("text") or choice.get("delta", {}).get("content") or "" for one in found for choice in one["choices"]]

    whole = await http.post(f"/v1/{path}", json=asked, headers={"Idempotency-Key": "a key"})
    first, *_ = ids_of(whole)
    again = await http.post(f"/v1/{path}", json=asked, headers={"Idempotency-Key": "a key", "Last-Event-ID": first})
    assert "".join(said(again)) == "".join(said(whole)).removeprefix(CHUNKS[0].text)
    assert first not in ids_of(again)[:1]
    assert again.text.endswith("data: [DONE]\n\n")
    several = await http.post(f"/v1/{path}", json={**asked, "n": 2}, headers={"Idempotency-Key": "a key", "Last-Event-ID": "1"})
    assert several.status_code == 400
    await http.post(f"/v1/{path}", json={**asked, "n": 2, "stream": False}, headers={"Idempotency-Key": "a key"})
    keys = [request.idempotency_key for request in coordinator.asked if isinstance(request, GenerateRequest)]
    assert keys[-2:] == ["a key#0", "a key#1"]
