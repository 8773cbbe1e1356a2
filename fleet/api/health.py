"""Whether the process lives, and whether what is wanted of it runs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from fleet.api.caller import FleetOfCaller
from fleet.principal import ANYONE
from fleet.service.protocol import Fleet


def routes(fleet: Fleet, of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz(request: Request) -> Response:
        """200 when every deployment is ready (none wanted counts), 503 otherwise; with the reasons, for whoever may see them."""
        ready = fleet.as_(ANYONE).ready()
        body: dict[str, Any] = {"status": "ready" if ready else "waiting"}
        if (known := of_caller.or_nobody(request)) is not None:
            waiting = [view for view in known.deployments() if view.state != "ready"]
            body["waiting"] = [{"deployment": view.name, "state": view.state, "detail": view.detail} for view in waiting]
        return JSONResponse(body, 200 if ready else 503)

    return router
