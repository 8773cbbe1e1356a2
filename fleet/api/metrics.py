"""What Prometheus scrapes."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from fleet.api.caller import FleetOfCaller
from fleet.service.protocol import FleetService


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["telemetry"])

    @router.get("/metrics", response_class=Response)
    async def metrics(fleet: FleetService = Depends(of_caller)) -> Response:
        """Devices, deployments and requests in Prometheus' text format."""
        return Response(fleet.metrics(), media_type=CONTENT_TYPE_LATEST)

    return router
