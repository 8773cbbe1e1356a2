from __future__ import annotations

import math

import pytest

from protos.plausible import implausible
from protos.v1 import telemetry_pb2 as pb


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        (pb.TelemetrySample(index=2**63), "index = 9.22337e+18"),
        (pb.TelemetrySample(uptime_seconds=math.nan), "uptime_seconds = nan"),
        (pb.TelemetrySample(energy=pb.EnergyCounter(busy_joules=math.inf)), "energy.busy_joules = inf"),
        (pb.TelemetrySample(pipelines=[pb.PipelineCounters(), pb.PipelineCounters(steps=2**64 - 1)]), "pipelines.steps = 1.84467e+19"),
    ],
)
def test_what_cannot_be_true_is_named(sample: pb.TelemetrySample, problem: str) -> None:
    assert implausible(sample) == problem


def test_what_can_be_true() -> None:
    gauges = pb.Gauges(temperature_celsius=-20.5, memory_used_bytes=2**63 - 1)
    assert implausible(pb.TelemetrySample(device_id="x", index=7, uptime_seconds=1.5, gauges=gauges)) is None
