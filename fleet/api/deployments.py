"""Deployments: make, list, remove."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from pydantic import Field

from fleet.api.caller import FleetOfCaller
from fleet.api.closing import closing
from fleet.api.encode import line
from fleet.api.errors import fleet_body
from fleet.api.plans import PlanBody
from fleet.api.sse import EVENTS, EventStream, ServerSentEvent
from fleet.deploying.desired import REPLAN_AFTER_SECONDS, Policy
from fleet.deploying.views import DeploymentView
from fleet.service.protocol import FleetService
from protos.errors import FleetError

MONTH_SECONDS = 30 * 86400.0


class DeployBody(PlanBody):
    """A plan's wishes, the deployment's name (default: the model's), and how many pipelines by these wishes.

    `replan_after_seconds`: a pipeline that lacks a device for so long is moved to others; null: never.
    `exact_within_seconds`: an answer whose pipeline broke is computed again exactly if that is predicted to take no longer; null: always.
    """

    name: str | None = None
    replicas: Annotated[int, Field(ge=1, le=1024)] = 1
    replan_after_seconds: Annotated[float, Field(gt=0, le=MONTH_SECONDS)] | None = REPLAN_AFTER_SECONDS
    exact_within_seconds: Annotated[float, Field(ge=0, le=MONTH_SECONDS)] | None = None


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["deployments"])

    @router.get("/deployments")
    async def list_deployments(fleet: FleetService = Depends(of_caller)) -> list[DeploymentView]:
        """Every deployment wanted, with its state."""
        return fleet.deployments()

    @router.post("/deployments", responses=EVENTS)
    async def deploy(body: DeployBody, fleet: FleetService = Depends(of_caller)) -> Response:
        """Deploys. Events: `plan`, `push` and `load` per device, and last `ready` or `error`. Leaving early takes back what was done."""
        return EventStream(_progress(fleet, body), failed)

    @router.delete("/deployments/{name}", status_code=204)
    async def undeploy(name: str, fleet: FleetService = Depends(of_caller)) -> None:
        """Unloads it from every device and forgets it."""
        await fleet.undeploy(name)

    return router


def failed(error: FleetError) -> ServerSentEvent:
    """The last event of a stream that went wrong."""
    return ServerSentEvent(line(fleet_body(error)["error"]), "error")


async def _progress(fleet: FleetService, body: DeployBody) -> AsyncGenerator[ServerSentEvent]:
    policy = Policy(replan_after_seconds=body.replan_after_seconds, standby=body.standby, exact_within_seconds=body.exact_within_seconds)
    async with closing(fleet.deploy(body.request(), body.name, body.replicas, policy)) as events:
        async for event in events:
            yield ServerSentEvent(line(event), event.kind)
