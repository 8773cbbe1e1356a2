"""Somebody on the network answers in a device's name, from before the coordinator starts: the device is found, and stays."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from zeroconf.asyncio import AsyncZeroconf

from device.agent.announce import Announcement, service_info
from fleet.devices.discovery import Candidate, Discovery
from fleet.devices.registry import Registry
from protos.ids import fleet_id
from tests.support.fake_device import FakeDevice
from tests.support.fake_fleet import QUICK
from tests.support.members import TestFleet, credentials_of
from tests.support.multicast import LOOPBACK, needs_multicast
from tests.support.waiting import wait_until

TARPITS = 6


@asynccontextmanager
async def tarpits() -> AsyncIterator[list[int]]:
    """Ports where somebody listens and says nothing: who dials there waits for as long as it has patience."""
    async with AsyncExitStack() as stack:
        holding: list[asyncio.StreamWriter] = []
        servers = [await asyncio.start_server(lambda _reader, writer: holding.append(writer), LOOPBACK, 0) for _ in range(TARPITS)]
        for server in servers:
            stack.callback(server.close)
        stack.callback(lambda: [writer.close() for writer in holding])
        yield [server.sockets[0].getsockname()[1] for server in servers]


@needs_multicast
async def test_forged_answers_while_the_coordinator_starts_cost_nothing_but_attempts(tmp_path: Path) -> None:
    """Each forged answer empties what mDNS remembers of the true one: its records say that they replace all others."""
    fleet = TestFleet.open(tmp_path)
    us = fleet_id(b"forged" + os.urandom(8))
    me, identity = fleet.member("me", "coordinator"), fleet.member("dev-1")
    async with tarpits() as ports, AsyncZeroconf(interfaces=[LOOPBACK]) as forger, FakeDevice(identity, "dev-1") as device:

        async def forge() -> None:
            lies = [service_info(identity.device_id, us, port, [LOOPBACK]) for port in ports]
            forger.zeroconf.registry.async_add(lies[0])
            for lie in itertools.cycle(lies):
                forger.zeroconf.registry.async_update(lie)
                forger.zeroconf.async_send(forger.zeroconf.generate_service_broadcast(lie, None))
                await asyncio.sleep(0.02)

        forging = asyncio.create_task(forge())
        async with Registry(credentials_of(me), lambda _sample: None, rules=QUICK) as registry:

            def found(candidate: Candidate) -> None:
                registry.found(candidate.device_id, candidate.addresses, candidate.found_by)

            def online() -> bool:
                record = registry.record(identity.device_id)
                return record is not None and record.state == "online"

            await asyncio.sleep(0.1)  # the forger is there before everybody
            async with (
                Discovery(us, me.credentials, found, registry.gone, interfaces=[LOOPBACK], unreached=lambda: registry.unreached),
                Announcement(identity.device_id, us, device.port, [LOOPBACK]),
            ):
                await wait_until(online)
                await device.restart()  # at the same address, while the forging goes on
                await wait_until(lambda: not registry.record(identity.device_id).connected)
                await wait_until(lambda: registry.record(identity.device_id).connected)
                assert registry.record(identity.device_id).address == device.address
        forging.cancel()
        await asyncio.gather(forging, return_exceptions=True)
