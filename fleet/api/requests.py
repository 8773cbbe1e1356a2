"""Requests on their way, and the last that have ended."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from fleet.answering.views import RequestView
from fleet.api.caller import FleetOfCaller
from fleet.service.protocol import FleetService


class RequestsQuery(BaseModel):
    """How many of those that have ended are wanted; None: all that are kept."""

    model_config = ConfigDict(extra="forbid")

    ended: Annotated[int, Field(ge=0, le=4096)] | None = None


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["requests"])

    @router.get("/requests")
    async def list_requests(query: Annotated[RequestsQuery, Query()], fleet: FleetService = Depends(of_caller)) -> list[RequestView]:
        """Those on their way, then the last that have ended, newest first; nothing of what was asked or answered."""
        found = fleet.requests()
        if query.ended is None:
            return found
        on_their_way = sum(one.state != "ended" for one in found)
        return found[: on_their_way + query.ended]

    @router.delete("/requests/{request_id}", status_code=204)
    async def cancel(request_id: str, fleet: FleetService = Depends(of_caller)) -> None:
        """Ends a request: its client gets what there is, with the reason `cancelled`."""
        await fleet.cancel(request_id)

    return router
