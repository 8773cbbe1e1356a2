"""The closer look at the fleet that `glmfleet doctor` asks for, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import version
from types import TracebackType
from typing import Self

from cryptography.x509 import load_pem_x509_certificate

from fleet.devices.diagnosis import FleetDiagnosis
from fleet.devices.discovery import Discovery
from fleet.devices.probing import look_closely
from fleet.devices.registry import Registry
from fleet.devices.views import LogView
from protos.net.credentials import Credentials
from protos.recent_log import recent_log
from protos.versions import SPOKEN


class Inspection:
    """An async context manager. `life` is that of the fleet's certificates, `now` in unix seconds."""

    def __init__(
        self, registry: Registry, discovery: Discovery, credentials: Credentials | None, life: timedelta, now: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._discovery = discovery
        self._credentials = credentials
        self._life = life
        self._now = now
        self._looking: asyncio.Task[FleetDiagnosis] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def diagnosis(self) -> FleetDiagnosis:
        """One look serves all who ask meanwhile: it sends packets and dials."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="look closely at the fleet")
        return await asyncio.shield(self._looking)

    async def log(self, device: str, after: int, most: int) -> LogView:
        """Of a device by name or id, or of this coordinator (""). Raises NotFound, InvalidInput, Unavailable, and Conflict for a device
        whose agent is of a release that keeps none."""
        if not device:
            own = recent_log()
            return LogView("", own.boot_id, tuple(own.lines(after, most)))
        record = self._registry.find(device)
        return await self._registry.client(record.device_id).read_log(after, most)

    async def _look(self) -> FleetDiagnosis:
        probed_on, found = await look_closely(self._registry, self._discovery, self._credentials, self._now)
        own = life = None
        if self._credentials is not None:
            own = load_pem_x509_certificate(self._credentials.certificate).not_valid_after_utc.timestamp() - self._now()
            life = self._life.total_seconds()
        return FleetDiagnosis(version("glmfleet"), str(SPOKEN), life, own, probed_on, found)
