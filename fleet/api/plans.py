"""Plans: what a deployment would do, and why."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from fleet.api.caller import FleetOfCaller
from fleet.planning.plan import Objective, Plan, PlanRequest
from fleet.service.protocol import FleetService
from protos.decoding import DecodeMode
from protos.dtypes import KvDtype, WireDtype


class PlanBody(BaseModel):
    """What to place where; every field but `model` may be left out. `standby`: so many spare devices keep stages loaded."""

    model_config = ConfigDict(extra="forbid")

    model: str
    objective: Objective = "latency"
    stages: Annotated[int, Field(ge=1, le=4096)] | None = None
    context: Annotated[int, Field(ge=2, le=1 << 24)] | None = None
    slots: Annotated[int, Field(ge=1, le=65536)] = 16
    devices: tuple[str, ...] = ()
    kv_dtype: KvDtype = "float32"
    wire_dtype: WireDtype = "float32"
    decode: DecodeMode = "rows"
    standby: Annotated[int, Field(ge=0, le=64)] = 0

    def request(self) -> PlanRequest:
        return PlanRequest(
            self.model, self.objective, self.stages, self.context, self.slots, self.devices, self.kv_dtype, self.wire_dtype, self.decode
        )


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["deployments"])

    @router.post("/plans")
    async def make_plan(body: PlanBody, fleet: FleetService = Depends(of_caller)) -> Plan:
        """The plan for these wishes; nothing is changed."""
        return await fleet.plan(body.request(), body.standby)

    return router
