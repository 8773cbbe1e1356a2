"""The way of a route to the fleet: through the caller that its request shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from fastapi import Request

from fleet.principal import LOCAL_ADMIN, Principal, Unauthenticated
from fleet.service.protocol import Fleet, FleetService

# From the Authorization header's text ("" when there is none). Raises Unauthenticated for nobody that is known, OverBudget.
Authenticate: TypeAlias = Callable[[str], Principal]


class FleetOfCaller:
    """A dependency of routes. They get no other hold of the fleet, so none can leave out who calls."""

    def __init__(self, fleet: Fleet, authenticate: Authenticate | None) -> None:
        """Without `authenticate` every caller is the local admin."""
        self._fleet = fleet
        self._authenticate = authenticate

    async def __call__(self, request: Request) -> FleetService:
        """Raises Unauthenticated, OverBudget."""
        return self._fleet.as_(self.who(request))

    def who(self, request: Request) -> Principal:
        """Who asks; counted once for a request, however often it is asked. Raises Unauthenticated, OverBudget."""
        if self._authenticate is None:
            return LOCAL_ADMIN
        known: Principal | None = getattr(request.state, "caller", None)
        if known is None:
            known = request.state.caller = self._authenticate(request.headers.get("authorization", ""))
        return known

    def or_nobody(self, request: Request) -> FleetService | None:
        """For routes that everybody may ask, and that tell more to whoever is known."""
        try:
            return self._fleet.as_(self.who(request))
        except Unauthenticated:
            return None
