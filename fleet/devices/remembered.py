"""Where devices have proven to be, kept over a restart: a coordinator must not begin with nothing but what strangers say."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from fleet.background import Background
from fleet.home import write_private
from protos.errors import FleetError
from protos.ids import DeviceId, parse_device_id
from protos.net.transport import split_address

MOST = 1024  # devices and gateways, the last proven first
WRITE_SECONDS = 5.0  # a fleet that starts proves many at once

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proven:
    """The key of `device` (or gateway) has answered at `address`, "host:port", with the zone of this machine where it has one."""

    device: DeviceId
    address: str


class Remembered:
    """An async context manager: what is noted while inside is in the file after it, and within seconds."""

    def __init__(self, file: Path) -> None:
        """Of what cannot be read nothing is remembered: it is a help, and no more. Blocks."""
        self._file = file
        self._known: dict[DeviceId, str] = {one.device: one.address for one in reversed(_read(file))}
        self._unwritten = False
        self._background = Background()

    @property
    def all(self) -> tuple[Proven, ...]:
        return tuple(Proven(device, address) for device, address in reversed(self._known.items()))

    def note(self, device: DeviceId, address: str) -> str | None:
        """It has just proven to be there. Where it was before, when that was somewhere else."""
        before = self._known.pop(device, None)
        self._unwritten |= before != address
        self._known[device] = address
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        return before if before != address else None

    async def __aenter__(self) -> Self:
        self._background.start(self._write_repeatedly(), "remember addresses")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._background.__aexit__(kind, error, trace)
        await self._write()

    async def _write_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self._write()

    async def _write(self) -> None:
        if not self._unwritten:
            return
        self._unwritten = False
        plain = [{"device": one.device, "address": one.address} for one in self.all]
        try:
            await asyncio.to_thread(write_private, self._file, json.dumps(plain).encode())
        except FleetError as error:
            self._unwritten = True
            _log.warning("addresses of devices are not remembered: %s", error.detail)


def _read(file: Path) -> list[Proven]:
    try:
        plain = json.loads(file.read_bytes())
        found = [Proven(parse_device_id(one["device"]), one["address"]) for one in plain[:MOST]]
        for one in found:
            split_address(one.address)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, FleetError) as error:
        _log.warning("%s cannot be read (%s): devices are looked for anew", file, error)
        return []
    return found
