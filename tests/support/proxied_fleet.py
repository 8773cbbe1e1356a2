"""Real agents that are reached only through proxies, and a coordinator over them: a fleet whose network does as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from device.agent.program import Agent, AgentConfig
from device.cpu import CpuHardware
from fleet.answering.views import GenerateRequest
from fleet.home import Home
from fleet.service.coordinator import Coordinator
from fleet.trust.authority import MEMBER_LIFE
from protos.errors import Unavailable
from protos.ids import DeviceId
from tests.support.checkpoints import TinyGlm
from tests.support.fake_fleet import QUICK, ask
from tests.support.members import TestFleet
from tests.support.proxy import Proxy
from tests.support.ring import tiny_model
from tests.support.waiting import wait_online

MEMORY_BYTES = 1 << 30
FOUR_LAYERS = TinyGlm(layers=4)
LONG = GenerateRequest(prompt_ids=(3, 1, 4, 1, 5), max_tokens=200)


@dataclass
class Box:
    """One agent, and the proxy in front of it."""

    name: str
    device: DeviceId
    state: Path
    hardware: CpuHardware
    agent: Agent
    proxy: Proxy


@dataclass
class ProxiedFleet:
    """`boxes` in the order of their ids, which the planner's ties go by: the first is the head."""

    coordinator: Coordinator
    boxes: list[Box]

    async def open_sequences(self) -> int:
        """On all devices, as they say themselves."""
        registry = self.coordinator._registry
        await registry.refresh([box.device for box in self.boxes])
        records = registry.records()
        return sum(stage.open_sequences for record in records if record.description for stage in record.description.stages)

    async def all_freed(self) -> None:
        """Whatever was broken, no device that can be asked keeps a sequence open."""
        async with asyncio.timeout(10):
            while await self.open_sequences():  # noqa: ASYNC110 (asked over the wire: nothing here tells)
                await asyncio.sleep(0.02)

    async def answer(self, request: GenerateRequest) -> tuple[int, ...]:
        """The tokens; asked again while the pipeline is on its way back."""
        while True:
            try:
                return (await ask(self.coordinator, request))[1].token_ids
            except Unavailable:
                await self.coordinator._registry.changed_since(self.coordinator._registry.changes - 1)


@asynccontextmanager
async def proxied_fleet(
    folder: Path, count: int, certificate_life: timedelta = MEMBER_LIFE, shape: TinyGlm = FOUR_LAYERS
) -> AsyncIterator[ProxiedFleet]:
    """At the end no device may have an open sequence."""
    home = Home.open(folder / "home")
    members = TestFleet.open(home.path)
    tiny_model(home.path, shape)
    async with AsyncExitStack() as stack:
        boxes = []
        for number in range(count):
            name = f"dev-{number}"
            device = members.member(name).device_id
            hardware = CpuHardware(MEMORY_BYTES, 1)
            stack.callback(hardware.close)
            agent = Agent(AgentConfig(members.folder / name, name, "127.0.0.1"), hardware)
            proxy = await stack.enter_async_context(Proxy(await stack.enter_async_context(agent)))
            boxes.append(Box(name, device, members.folder / name, hardware, agent, proxy))
        boxes.sort(key=lambda box: box.device)
        seeds = [box.proxy.address for box in boxes]
        coordinator = Coordinator(
            home,
            seeds=seeds,
            interfaces=(),
            rules=QUICK,
            period_seconds=0.2,
            batch_seconds=0.05,
            discovery_seconds=0.0,
            certificate_life=certificate_life,
        )
        await stack.enter_async_context(coordinator)
        await wait_online(coordinator.devices, count, 10)
        fleet = ProxiedFleet(coordinator, boxes)
        try:
            yield fleet
            await fleet.all_freed()
        finally:
            for box in boxes:  # those that a test has put in the place of the first
                await box.agent.__aexit__(None, None, None)
