"""Requests on their way, and the last that have ended."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from fleet.answering.views import RequestView
from fleet.api.caller import FleetOfCaller
from fleet.service.protocol import FleetService


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["requests"])

    @router.get("/requests")
    async def list_requests(fleet: FleetService = Depends(of_caller)) -> list[RequestView]:
        """Those on their way, then the last that have ended, newest first; nothing of what was asked or answered."""
        return fleet.requests()

    @router.delete("/requests/{request_id}", status_code=204)
    async def cancel(request_id: str, fleet: FleetService = Depends(of_caller)) -> None:
        """Ends a request: its client gets what there is, with the reason `cancelled`."""
        await fleet.cancel(request_id)

    return router
