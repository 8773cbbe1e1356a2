"""Keys of the API, and who the caller is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from fleet.access import KeyView, NewKey
from fleet.api.caller import FleetOfCaller
from fleet.principal import Role
from fleet.service.protocol import FleetService


class KeyBody(BaseModel):
    """Without `life_seconds` it lasts until it is revoked; without a budget there is no limit."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=64)]
    role: Role
    life_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    requests_per_minute: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    tokens_per_day: Annotated[int, Field(ge=1, lt=1 << 53)] | None = None


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["keys"])

    @router.get("/me")
    async def me(request: Request) -> dict[str, str]:
        """Whose key was shown: `name`, `role`, `key_id`."""
        caller = of_caller.who(request)
        return {"name": caller.name, "role": caller.role, "key_id": caller.key_id}

    @router.get("/keys")
    async def list_keys(fleet: FleetService = Depends(of_caller)) -> list[KeyView]:
        """Keys of the API, the newest first."""
        return await fleet.keys()

    @router.post("/keys")
    async def new_key(body: KeyBody, fleet: FleetService = Depends(of_caller)) -> KeyView:
        """Makes a key. It is told here and never again."""
        return await fleet.new_key(NewKey(**body.model_dump()))

    @router.delete("/keys/{key_id}")
    async def revoke_key(key_id: str, fleet: FleetService = Depends(of_caller)) -> KeyView:
        """A key, by id or name, is no good any more; answers on their way to its holder end."""
        return await fleet.revoke_key(key_id)

    return router
