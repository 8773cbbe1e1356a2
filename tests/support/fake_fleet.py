"""A home with a tiny model and fake devices, and coordinators over it, all on loopback without mDNS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fleet.answering.views import GenerateRequest, GenerateResult, TokenChunk
from fleet.deploying.views import DeployEvent
from fleet.devices.liveness import Liveness
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from fleet.service.coordinator import Coordinator
from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore
from tests.support.checkpoints import TinyGlm
from tests.support.fake_device import FakeDevice
from tests.support.members import TestFleet
from tests.support.ring import tiny_model
from tests.support.waiting import wait_online, wait_until

# Quick to find and to redial, patient with a device that shares two cores with other tests.
QUICK = Liveness(interval_seconds=0.05, suspect_intervals=40, offline_seconds=5.0, first_wait_seconds=0.02, longest_wait_seconds=0.2)


@dataclass(frozen=True)
class FakeFleet:
    home: Home
    members: TestFleet
    manifest: Manifest
    artifacts: ArtifactStore
    devices: Sequence[FakeDevice]

    def coordinator(self, discovery_seconds: float = 0.0, recovery_seconds: float = 0.0) -> Coordinator:
        """Requests whose ring breaks fail at once, unless they are given time."""
        return Coordinator(
            self.home,
            seeds=[device.address for device in self.devices],
            interfaces=(),
            rules=QUICK,
            period_seconds=0.2,
            batch_seconds=0.05,
            discovery_seconds=discovery_seconds,
            recovery_seconds=recovery_seconds,
        )

    @asynccontextmanager
    async def coordinating(self) -> AsyncIterator[Coordinator]:
        """A coordinator that sees all devices."""
        async with self.coordinator() as coordinator:
            await wait_online(coordinator.devices, len(self.devices), 10)
            yield coordinator

    @asynccontextmanager
    async def deployed(self, stages: int = 1) -> AsyncIterator[Coordinator]:
        async with self.coordinating() as coordinator:
            await deploy(coordinator, stages)
            yield coordinator


@asynccontextmanager
async def fake_fleet(folder: Path, count: int = 1) -> AsyncIterator[FakeFleet]:
    home = Home.open(folder / "home")
    members = TestFleet.open(home.path)
    manifest, artifacts = tiny_model(home.path, TinyGlm())
    async with AsyncExitStack() as stack:
        made = [FakeDevice(members.member(f"dev-{number}"), f"dev-{number}") for number in range(1, count + 1)]
        for device in made:
            await stack.enter_async_context(device)
        made.sort(key=lambda device: device.device)  # the planner's ties go to the lowest ids: the first is the head
        yield FakeFleet(home, members, manifest, artifacts, made)


async def deploy(coordinator: Coordinator, stages: int | None = None, name: str | None = None) -> list[DeployEvent]:
    return [event async for event in coordinator.deploy(PlanRequest("tiny", stages=stages), name)]


async def ask(coordinator: Coordinator, request: GenerateRequest) -> tuple[list[TokenChunk], GenerateResult]:
    parts = [part async for part in coordinator.generate(request)]
    *chunks, result = parts
    assert isinstance(result, GenerateResult)
    assert all(isinstance(chunk, TokenChunk) for chunk in chunks)
    return [chunk for chunk in chunks if isinstance(chunk, TokenChunk)], result


async def wait_ready(coordinator: Coordinator) -> None:
    await wait_until(lambda: [view.state for view in coordinator.deployments()] == ["ready"])
