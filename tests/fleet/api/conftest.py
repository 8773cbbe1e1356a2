from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from fleet.api.app import create_app
from tests.support.fake_coordinator import FakeCoordinator


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
async def http(coordinator: FakeCoordinator) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(coordinator, authenticate=None), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
