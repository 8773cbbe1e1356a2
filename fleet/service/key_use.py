"""What keys have used, written down every few seconds while the coordinator runs, and at its end."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from fleet.background import Background
from fleet.trust.keys import WRITE_SECONDS, ApiKeys
from protos.errors import FleetError

_log = logging.getLogger(__name__)


class KeyUse:
    """An async context manager. After a crash the last seconds are missing."""

    def __init__(self, keys: ApiKeys, *, every_seconds: float = WRITE_SECONDS) -> None:
        self._keys = keys
        self._every_seconds = every_seconds
        self._background = Background()

    async def __aenter__(self) -> Self:
        self._background.start(self._write_repeatedly(), "write what keys have used")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._background.__aexit__(kind, error, trace)
        await self._write()

    async def _write_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(self._every_seconds)
            await self._write()

    async def _write(self) -> None:
        try:
            await asyncio.to_thread(self._keys.write_use)
        except FleetError as error:
            _log.warning("what keys have used is not written down: %s", error.detail)
