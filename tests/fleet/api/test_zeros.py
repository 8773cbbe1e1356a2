"""An explicit zero in a body or a query is what was said: refused where it means nothing, kept where it means something."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from fleet.answering.views import GenerateRequest
from tests.support.fake_coordinator import FakeCoordinator

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
BODIES: dict[str, dict[str, Any]] = {
    "/api/v1/generate": {"prompt": "x", "stream": False},
    "/api/v1/plans": {"model": "tiny"},
    "/api/v1/deployments": {"model": "tiny"},
    "/v1/completions": {"model": "tiny", "prompt": "x"},
    "/v1/chat/completions": CHAT,
}
MEANINGLESS = [
    ("/api/v1/generate", "max_tokens"),
    ("/api/v1/generate", "timeout_seconds"),
    ("/api/v1/generate", "top_p"),
    ("/api/v1/plans", "stages"),
    ("/api/v1/plans", "context"),
    ("/api/v1/plans", "slots"),
    ("/api/v1/deployments", "replicas"),
    ("/v1/completions", "max_tokens"),
    ("/v1/completions", "n"),
    ("/v1/completions", "best_of"),
    ("/v1/chat/completions", "max_completion_tokens"),
    ("/v1/chat/completions", "repetition_penalty"),
]


async def test_a_zero_that_means_nothing_is_refused_by_name(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    for path, name in MEANINGLESS:
        answer = await http.post(path, json={**BODIES[path], name: 0})
        assert (answer.status_code, name in answer.text) == (400, True), (path, name)
    assert coordinator.asked == []


@pytest.mark.parametrize("path", ["/api/v1/generate", "/v1/completions", "/v1/chat/completions"])
async def test_a_zero_that_means_something_is_kept(coordinator: FakeCoordinator, http: httpx.AsyncClient, path: str) -> None:
    zeros = {"temperature": 0, "top_k": 0, "seed": 0, "min_p": 0, "min_tokens": 0, "stop_token_ids": [0], "allowed_token_ids": [0]}
    assert (await http.post(path, json={**BODIES[path], **zeros})).status_code == 200
    (request,) = coordinator.asked
    assert isinstance(request, GenerateRequest)
    assert (request.sampling.temperature, request.sampling.seed) == (0.0, 0)
    assert (request.min_tokens, request.stop_token_ids, request.allowed_token_ids) == (0, (0,), (0,))
