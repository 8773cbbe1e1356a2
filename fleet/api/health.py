"""Whether the process lives, and whether what is wanted of it runs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from fleet.principal import ANYONE
from fleet.service.protocol import Fleet


def routes(fleet: Fleet) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> Response:
        """200 when every deployment is ready (none wanted counts), 503 with the reasons otherwise."""
        waiting = [view for view in fleet.as_(ANYONE).deployments() if view.state != "ready"]
        body: dict[str, Any] = {
            "status": "waiting" if waiting else "ready",
            "waiting": [{"deployment": view.name, "state": view.state, "detail": view.detail} for view in waiting],
        }
        return JSONResponse(body, 503 if waiting else 200)

    return router
