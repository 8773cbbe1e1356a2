"""What requests, devices, models and deployments cost."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from fleet.api.caller import FleetOfCaller
from fleet.service.protocol import FleetService
from fleet.telemetry.views import CostRow


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["telemetry"])

    @router.get("/telemetry")
    async def telemetry(
        since: Annotated[float, Query(gt=0, description="how far back, in seconds")] = 600.0,
        by: Literal["device", "model", "deployment", "request"] = "device",
        fleet: FleetService = Depends(of_caller),
    ) -> list[CostRow]:
        """Seconds (wall and modelled) and joules, each with its source; null where nothing was metered."""
        return await fleet.telemetry(since, by)

    return router
