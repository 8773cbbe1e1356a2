"""What requests, devices, models and deployments cost, and how it went over time."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from fleet.api.caller import FleetOfCaller
from fleet.service.protocol import FleetService
from fleet.telemetry.distributions import MOST_PERCENTILES
from fleet.telemetry.views import CostRow, History, Percentiles

LONGEST_SECONDS = 365 * 86400.0  # of a history; nothing is kept for so long (fleet/telemetry/records.py)


class TelemetryQuery(BaseModel):
    """What costs are wanted. A name that is not here is refused: with a misspelt one the sums would be of another time."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[float, Field(gt=0, description="how far back, in seconds")] = 600.0
    by: Literal["device", "model", "deployment", "request"] = "device"


class HistoryQuery(BaseModel):
    """Of which period, and of which device; without one, of all together."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[float, Field(gt=0, le=LONGEST_SECONDS, description="how far back, in seconds")] = 600.0
    device: Annotated[str, Field(min_length=1, description="its name or id")] | None = None


class PercentilesQuery(BaseModel):
    """Of which period, for each of what, and which; 50, 90 and 99 where none is named."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[float, Field(gt=0, le=LONGEST_SECONDS, description="how far back, in seconds")] = 600.0
    by: Literal["deployment", "model"] = "deployment"
    percentile: Annotated[list[Annotated[float, Field(ge=0, le=100)]], Field(min_length=1, max_length=MOST_PERCENTILES)] = [50, 90, 99]


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["telemetry"])

    @router.get("/telemetry")
    async def telemetry(query: Annotated[TelemetryQuery, Query()], fleet: FleetService = Depends(of_caller)) -> list[CostRow]:
        """Seconds (wall and modelled) and joules, each with its source; null where nothing was metered."""
        return await fleet.telemetry(query.since, query.by)

    @router.get("/telemetry/history")
    async def history(query: Annotated[HistoryQuery, Query()], fleet: FleetService = Depends(of_caller)) -> History:
        """Watts, tokens a second, busy share, temperature, memory and joules a token over time, at most 500 values each; null where nothing
        is known."""
        return await fleet.history(query.since, query.device)

    @router.get("/telemetry/percentiles")
    async def percentiles(query: Annotated[PercentilesQuery, Query()], fleet: FleetService = Depends(of_caller)) -> Percentiles:
        """Time in the queue, to the first token, a token, in all, and joules a token: percentiles of the period and of intervals of it."""
        return await fleet.percentiles(query.since, query.by, query.percentile)

    return router
