from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import openai
import pytest

from fleet.trust.api_key import authenticator
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.http_server import serving
from tests.support.shared_app import shared_app


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
async def http(coordinator: FakeCoordinator) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(shared_app(coordinator), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest.fixture
async def peer(coordinator: FakeCoordinator) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client, over a real socket."""
    async with (
        serving(shared_app(coordinator, authenticator("secret"))) as url,
        openai.DefaultAsyncHttpxClient(trust_env=False) as plain,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0, http_client=plain) as client,  # pragma: allowlist secret
    ):
        yield client
