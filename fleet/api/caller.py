"""The way of a route to the fleet: through the caller that its request shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from fastapi import Request

from fleet.api.errors import Unauthenticated
from fleet.principal import LOCAL_OPERATOR, Principal
from fleet.service.protocol import Fleet, FleetService

# From the Authorization header's text ("" when there is none); None for nobody that is known.
Authenticate: TypeAlias = Callable[[str], Principal | None]


class FleetOfCaller:
    """A dependency of routes. They get no other hold of the fleet, so none can leave out who calls."""

    def __init__(self, fleet: Fleet, authenticate: Authenticate | None) -> None:
        """Without `authenticate` every caller is the local operator."""
        self._fleet = fleet
        self._authenticate = authenticate

    async def __call__(self, request: Request) -> FleetService:
        """Raises Unauthenticated."""
        caller: Principal | None = LOCAL_OPERATOR
        if self._authenticate is not None:
            caller = self._authenticate(request.headers.get("authorization", ""))
        if caller is None:
            raise Unauthenticated
        return self._fleet.as_(caller)
