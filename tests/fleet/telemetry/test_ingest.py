from __future__ import annotations

import math
from pathlib import Path

import pytest

from fleet.store.database import Store
from fleet.telemetry.ingest import Ingest
from fleet.telemetry.records import Registered, TelemetryRecords
from protos.v1 import telemetry_pb2 as pb


def sample(device: str, index: int, busy_joules: float = 1.0) -> pb.TelemetrySample:
    energy = pb.EnergyCounter(source=pb.ENERGY_SOURCE_MEASURED, busy_joules=busy_joules)
    return pb.TelemetrySample(device_id=device, boot_id="boot", index=index, uptime_seconds=1.0, energy=energy)


@pytest.mark.parametrize("lie", [sample("bad", 2**63), sample("bad", 1, math.nan), sample("bad", 1, math.inf)])
async def test_one_devices_nonsense_costs_the_others_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lie: pb.TelemetrySample
) -> None:
    with Store(tmp_path / "state.sqlite") as store:
        telemetry = TelemetryRecords(store)
        async with Ingest(telemetry, Registered, now=lambda: 100.0) as ingest:
            for one in (sample("good", 0, 1.0), lie, lie, sample("good", 1, 4.0)):
                ingest.add(one)
            await ingest.flush()
            assert [(row.key, row.source) for row in telemetry.costs(50.0, "device", 101.0)] == [("good", "measured")]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["bad"]
