"""The fleet's calls as one caller makes them."""

from __future__ import annotations

import logging
from typing import Any, cast

from fleet.principal import Principal
from fleet.service.protocol import FleetService

CALLS = frozenset(name for name in vars(FleetService) if not name.startswith("_"))

_log = logging.getLogger(__name__)


def bound(service: FleetService, caller: Principal) -> FleetService:
    """`service`, each of whose calls is known to be the caller's."""
    return cast(FleetService, _Bound(service, caller))


class _Bound:
    """Passes on the calls of FleetService and nothing else: what must hold for each of them (rights, an audit) has its place here."""

    def __init__(self, service: FleetService, caller: Principal) -> None:
        self._service = service
        self._caller = caller

    def __getattr__(self, call: str) -> Any:
        if call not in CALLS:
            raise AttributeError(f"FleetService has no call {call}")
        _log.debug("%s (%s) calls %s", self._caller.name, self._caller.kind, call)
        return getattr(self._service, call)
