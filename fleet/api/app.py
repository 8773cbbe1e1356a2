"""The application: routes of each noun, one error shape, one place that says who calls."""

from __future__ import annotations

from fastapi import Depends, FastAPI

from fleet.api import deployments, devices, enrolments, errors, generate, health, models, openai, plans, requests, telemetry
from fleet.api.caller import Authenticate, FleetOfCaller
from fleet.api.guard import BoundedBody, OwnNamesOnly, OwnPagesOnly
from fleet.api.text import only_text
from fleet.service.protocol import Fleet


def create_app(fleet: Fleet, *, authenticate: Authenticate | None) -> FastAPI:
    """The HTTP side of `fleet`.

    Every route but /healthz and /readyz is for those whom `authenticate` knows; without it, for everybody on loopback.
    """
    app = FastAPI(
        title="glmfleet",
        summary="A fleet of edge devices that serves a small GLM language model.",
        docs_url=None,  # its page is fetched from other hosts; the description itself is here
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    errors.install(app)
    app.add_middleware(BoundedBody)
    if authenticate is None:  # with it, no page of another site can have what it asks for
        app.add_middleware(OwnPagesOnly)
        app.add_middleware(OwnNamesOnly)
    of_caller = FleetOfCaller(fleet, authenticate)
    guarded = [Depends(of_caller), Depends(only_text)]  # also a route that would need nothing of the fleet
    app.include_router(health.routes(fleet))
    for noun in (devices, enrolments, models, plans, deployments, generate, requests, telemetry):
        app.include_router(noun.routes(of_caller), prefix="/api/v1", dependencies=guarded)
    app.include_router(openai.routes(of_caller), prefix="/v1", dependencies=guarded)
    return app
