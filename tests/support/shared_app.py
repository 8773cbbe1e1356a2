"""One application for the tests of one process: to build its routes takes 0.1 s, and a thousand tests ask them."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import FastAPI

from fleet.api.app import create_app
from fleet.api.caller import Authenticate
from fleet.principal import Principal
from fleet.service.protocol import Fleet


class _Stand:
    """Stands for the fleet of the test that runs."""

    def __init__(self) -> None:
        self.fleet: Fleet | None = None
        self.authenticate: Authenticate | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fleet, name)

    def known(self, authorization: str) -> Principal:
        assert self.authenticate is not None
        return self.authenticate(authorization)


@cache
def _built(guarded: bool) -> tuple[FastAPI, _Stand]:
    stand = _Stand()
    return create_app(stand, authenticate=stand.known if guarded else None), stand


def shared_app(fleet: Fleet, authenticate: Authenticate | None = None) -> FastAPI:
    """The application over `fleet`, until the next call with, or the next without `authenticate`."""
    app, stand = _built(authenticate is not None)
    stand.fleet, stand.authenticate = fleet, authenticate
    return app
