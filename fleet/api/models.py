"""Models in the artifact store."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from fleet.api.caller import FleetOfCaller
from fleet.service.protocol import FleetService
from fleet.service.views import ModelView


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.get("/models")
    async def list_models(fleet: FleetService = Depends(of_caller)) -> list[ModelView]:
        """Every model in the store."""
        return fleet.models()

    @router.get("/models/{name}")
    async def show_model(name: str, fleet: FleetService = Depends(of_caller)) -> ModelView:
        """One model."""
        return fleet.model(name)

    return router
