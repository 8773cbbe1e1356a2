from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleet.devices.client import DeviceClient
from fleet.devices.inspection import Inspection
from protos.errors import NotFound
from protos.net.transport import dial
from tests.support.fake_device import FakeDevice
from tests.support.members import TestFleet


class Registered:
    """A registry of one device."""

    def __init__(self, name: str, client: DeviceClient) -> None:
        self._name, self._client = name, client

    def find(self, name_or_id: str) -> Any:
        if name_or_id != self._name:
            raise NotFound(f"no device {name_or_id!r}")
        return SimpleNamespace(device_id="id")

    def client(self, device: str) -> DeviceClient:
        assert device == "id"
        return self._client


async def test_a_log_is_of_the_device_that_is_named_or_our_own(tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    async with FakeDevice(fleet.member("dev-1"), "dev-1") as device:
        peer = dial(device.address, device.device, fleet.member("us", "coordinator").credentials)
        registry: Any = Registered("dev-1", DeviceClient(peer, "dev-1"))
        inspection = Inspection(registry, discovery=None, credentials=None, life=timedelta(1), now=lambda: 0.0)  # type: ignore[arg-type]
        try:
            found = await inspection.log("dev-1", 0, 10)
            assert (found.source, found.boot_id, [line.text for line in found.lines]) == ("dev-1", "boot", ["dev-1"])
            with pytest.raises(NotFound, match="no device 'dev-2'"):
                await inspection.log("dev-2", 0, 10)
            own = await inspection.log("", 0, 1000)
            logging.getLogger("fleet.of.a.test").warning("a board is away")
            last = own.lines[-1].number if own.lines else 0
            assert [line.text for line in (await inspection.log("", last, 1000)).lines] == ["a board is away"]
        finally:
            await peer.close()
