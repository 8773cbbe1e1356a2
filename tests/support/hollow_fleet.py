"""A few hollow devices behind a gateway in this process, and what a coordinator's registry makes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fleet.devices.liveness import Liveness
from fleet.devices.registry import Registry
from protos.v1 import telemetry_pb2
from sim_devices.hollow.fleet import HollowFleet, HollowPlan
from sim_devices.profiles import load_profile
from tests.support.fake_fleet import QUICK
from tests.support.members import TestFleet, credentials_of
from tests.support.waiting import wait_online


def hollow_plan(count: int, name: str = "hollow-1") -> HollowPlan:
    return HollowPlan(name, count, [load_profile("rk3588"), load_profile("raspberry-pi-5")])


def hollow_fleet(members: TestFleet, count: int, name: str = "hollow-1", port: int = 0) -> HollowFleet:
    return HollowFleet(hollow_plan(count, name), members.member(name, "gateway"), port=port)


@dataclass
class Watching:
    registry: Registry
    fleet: HollowFleet
    samples: list[telemetry_pb2.TelemetrySample] = field(default_factory=list)

    def states(self) -> dict[str, str]:
        return {record.name: record.state for record in self.registry.records()}


@asynccontextmanager
async def watching(folder: Path, count: int, rules: Liveness = QUICK) -> AsyncIterator[Watching]:
    members = TestFleet.open(folder)
    ours = credentials_of(members.member("coordinator", "coordinator"))
    samples: list[telemetry_pb2.TelemetrySample] = []
    async with hollow_fleet(members, count) as fleet, Registry(ours, samples.append, rules=rules) as registry:
        registry.found_gateway(fleet.gateway, (fleet.address,), "mdns")
        await wait_online(registry.records, count, 10)
        yield Watching(registry, fleet, samples)
