"""A small fleet of real agents over loopback, with a tiny model deployed, and its HTTP API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fleet.api.app import create_app
from fleet.planning.plan import PlanRequest
from tests.support.checkpoints import TinyGlm
from tests.support.http_server import serving
from tests.support.proxied_fleet import proxied_fleet


@asynccontextmanager
async def served_fleet(folder: Path, stages: int = 2) -> AsyncIterator[str]:
    """The base URL; the deployment is "tiny"."""
    async with proxied_fleet(folder, stages, shape=TinyGlm(layers=4, max_positions=2048)) as fleet:
        async for _ in fleet.coordinator.deploy(PlanRequest("tiny", stages=stages)):
            pass
        async with serving(create_app(fleet.coordinator, authenticate=None)) as url:
            yield url
