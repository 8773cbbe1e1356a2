from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from protos.v1 import device_pb2 as pb
from tests.device.agent.test_device_service import device


async def test_its_log_is_read_from_afar(tmp_path: Path) -> None:
    async with device(tmp_path) as peer:
        before = await peer.device_stub.ReadLog(pb.ReadLogRequest(), metadata=peer.metadata)
        for number in range(3):
            logging.getLogger("device.blobs").warning("the disk is full, %d", number)
        last = max((line.number for line in before.lines), default=0)
        after = await peer.device_stub.ReadLog(pb.ReadLogRequest(after=last, most=2), metadata=peer.metadata)
        told = [(line.level, line.logger, line.text) for line in after.lines]
        assert told == [("WARNING", "device.blobs", f"the disk is full, {number}") for number in (1, 2)]
        assert after.boot_id == before.boot_id
        assert after.lines[0].at == pytest.approx(time.time(), abs=60)
