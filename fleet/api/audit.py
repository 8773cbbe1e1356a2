"""The audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from fleet.access import AuditEntry, AuditVerdict
from fleet.api.caller import FleetOfCaller
from fleet.service.protocol import FleetService

DAY_SECONDS = 86400.0


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["audit"])

    @router.get("/audit")
    async def audit(
        since: Annotated[float, Query(gt=0, allow_inf_nan=False)] = DAY_SECONDS, fleet: FleetService = Depends(of_caller)
    ) -> list[AuditEntry]:
        """Who changed what in the last `since` seconds, oldest first; the last 1,000 lines at most."""
        return await fleet.audit(since)

    @router.get("/audit/verdict")
    async def verify(fleet: FleetService = Depends(of_caller)) -> AuditVerdict:
        """Whether every line is as it was written, and none is missing."""
        return await fleet.verify_audit()

    return router
