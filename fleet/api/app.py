"""The application: routes of each noun, one error shape, one place that says who calls."""

from __future__ import annotations

from fastapi import Depends, FastAPI

from fleet.api import (
    audit,
    deployments,
    devices,
    enrolments,
    errors,
    generate,
    health,
    joining,
    keys,
    metrics,
    models,
    ollama,
    openai,
    openai_embeddings,
    openai_responses,
    page,
    plans,
    requests,
    telemetry,
)
from fleet.api.caller import Authenticate, FleetOfCaller
from fleet.api.guard import BoundedBody, JsonAnyway, KeyFirst, OwnNamesOnly, OwnPagesOnly, SoundHead
from fleet.api.text import only_text
from fleet.service.protocol import Fleet

API = "/api/v1"
# Whoever has no key may ask these, and no others.
OPEN = frozenset({"/healthz", "/readyz", "/openapi.json", f"{API}/join"}) | page.PATHS


def create_app(fleet: Fleet, *, authenticate: Authenticate | None) -> FastAPI:
    """The HTTP side of `fleet`.

    Every route but those of `OPEN` is for those whom `authenticate` knows; without it, for everybody on loopback.
    """
    app = FastAPI(
        title="glmfleet",
        summary="A fleet of edge devices that serves a small GLM language model.",
        docs_url=None,  # its page is fetched from other hosts; the description itself is here
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    errors.install(app)
    of_caller = FleetOfCaller(fleet, authenticate)
    app.add_middleware(JsonAnyway, [f"/api/{name}" for name in ("chat", "generate", "embed", "show")])
    app.add_middleware(BoundedBody, of_path={f"{API}/join": joining.MOST_BODY_BYTES})
    app.add_middleware(KeyFirst, of_caller, OPEN)
    if authenticate is None:  # with it, no page of another site can have what it asks for
        app.add_middleware(OwnPagesOnly)
        app.add_middleware(OwnNamesOnly)
    app.add_middleware(SoundHead)  # the last that is added sees a request first
    guarded = [Depends(of_caller), Depends(only_text)]  # also a route that would need nothing of the fleet
    app.include_router(health.routes(fleet, of_caller))
    app.include_router(page.routes())
    app.include_router(metrics.routes(of_caller), dependencies=guarded)
    app.include_router(joining.routes(fleet), prefix=API, dependencies=[Depends(only_text)])
    for noun in (devices, enrolments, models, plans, deployments, generate, requests, telemetry, keys, audit):
        app.include_router(noun.routes(of_caller), prefix=API, dependencies=guarded)
    app.include_router(ollama.routes(of_caller), prefix="/api", dependencies=guarded)
    for part in (openai, openai_embeddings, openai_responses):
        app.include_router(part.routes(of_caller), prefix="/v1", dependencies=guarded)
    return app
