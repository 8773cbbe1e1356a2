"""What tests of OpenAI's API send, and how they read what comes."""

from __future__ import annotations

import json
from typing import Any

import httpx

from fleet.answering.views import GenerateRequest
from tests.support.fake_coordinator import FakeCoordinator

HELLO = [{"role": "user", "content": "hello"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CALL: Any = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Ulm"}'}}


def chunks_of(answer: httpx.Response) -> list[dict[str, object]]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def asked(coordinator: FakeCoordinator) -> GenerateRequest:
    (request,) = coordinator.asked
    assert isinstance(request, GenerateRequest)
    return request
