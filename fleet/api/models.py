"""Models in the artifact store."""

from __future__ import annotations

from fastapi import APIRouter

from fleet.service.protocol import FleetService
from fleet.service.views import ModelView


def routes(coordinator: FleetService) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.get("/models")
    async def list_models() -> list[ModelView]:
        """Every model in the store."""
        return coordinator.models()

    @router.get("/models/{name}")
    async def show_model(name: str) -> ModelView:
        """One model."""
        return coordinator.model(name)

    return router
