"""Devices that are to be switched off: nothing new goes there, and what is there moves away. Kept over a restart."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

from fleet.devices.registry import Registry
from fleet.home import write_private
from protos.ids import DeviceId, parse_device_id

_log = logging.getLogger(__name__)


class Draining:
    """Tells the registry at once, and again after a restart."""

    def __init__(self, file: Path, registry: Registry) -> None:
        """Blocks."""
        self._file = file
        self._registry = registry
        self._devices = _read(file)
        registry.drain(self._devices)

    async def drain(self, key: str) -> DeviceId:
        """The device of this name or id is to be switched off; again is no error. Raises NotFound, InvalidInput (two have the name), and
        NoSpace where it could not be written down: then nothing has changed."""
        device = self._registry.find(key).device_id
        await self._put(self._devices | {device})
        return device

    async def undrain(self, key: str) -> DeviceId:
        """It is to be used as before. Raises as `drain`."""
        device = self._registry.find(key).device_id
        await self._put(self._devices - {device})
        return device

    async def _put(self, devices: frozenset[DeviceId]) -> None:
        await asyncio.to_thread(write_private, self._file, json.dumps(sorted(devices)).encode())
        self._devices = devices
        self._registry.drain(devices)


def _read(file: Path) -> frozenset[DeviceId]:
    try:
        return frozenset(parse_device_id(one) for one in json.loads(file.read_bytes()))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _log.error("%s cannot be read (%s): devices that were drained are used again", file, error)
        return frozenset()
