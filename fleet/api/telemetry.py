"""What requests, devices, models and deployments cost."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from fleet.api.caller import FleetOfCaller
from fleet.service.protocol import FleetService
from fleet.telemetry.views import CostRow


class TelemetryQuery(BaseModel):
    """What costs are wanted. A name that is not here is refused: with a misspelt one the sums would be of another time."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[float, Field(gt=0, description="how far back, in seconds")] = 600.0
    by: Literal["device", "model", "deployment", "request"] = "device"


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["telemetry"])

    @router.get("/telemetry")
    async def telemetry(query: Annotated[TelemetryQuery, Query()], fleet: FleetService = Depends(of_caller)) -> list[CostRow]:
        """Seconds (wall and modelled) and joules, each with its source; null where nothing was metered."""
        return await fleet.telemetry(query.since, query.by)

    return router
