"""The application: routes of each noun, one error shape, one key."""

from __future__ import annotations

import hmac

from fastapi import Depends, FastAPI, Request

from fleet.api import deployments, devices, errors, generate, health, models, openai, plans, telemetry
from fleet.api.guard import BoundedBody, OwnNamesOnly, OwnPagesOnly
from fleet.service.protocol import FleetService


def create_app(coordinator: FleetService, *, api_key: str | None) -> FastAPI:
    """The HTTP side of `coordinator`. With a key every route but /healthz and /readyz asks for it; without one only loopback is served."""
    app = FastAPI(
        title="glmfleet",
        summary="A fleet of edge devices that serves a small GLM language model.",
        docs_url=None,  # its page is fetched from other hosts; the description itself is here
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    errors.install(app)
    app.add_middleware(BoundedBody)
    if api_key is None:  # with one, no page of another site can have it
        app.add_middleware(OwnPagesOnly)
        app.add_middleware(OwnNamesOnly)
    guarded = [Depends(_Key(api_key))]
    app.include_router(health.routes(coordinator))
    for noun in (devices, models, plans, deployments, generate, telemetry):
        app.include_router(noun.routes(coordinator), prefix="/api/v1", dependencies=guarded)
    app.include_router(openai.routes(coordinator), prefix="/v1", dependencies=guarded)
    return app


class _Key:
    def __init__(self, expected: str | None) -> None:
        self._expected = expected

    async def __call__(self, request: Request) -> None:
        if self._expected is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._expected.encode()):
            raise errors.Unauthenticated
