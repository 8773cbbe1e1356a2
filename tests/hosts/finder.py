"""A program for tests: finds devices as a coordinator does, and says each change of what it knows of them as a line of JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from pathlib import Path

from device.agent.identity import load_identity
from fleet.devices.discovery import Candidate, Discovery
from fleet.devices.liveness import Liveness
from fleet.devices.registry import Registry


async def main(folder: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    me = load_identity(folder)

    async with Registry(me.credentials, lambda _sample: None, rules=Liveness()) as registry:

        def found(candidate: Candidate) -> None:
            registry.found(candidate.device_id, candidate.addresses, candidate.found_by)

        discovery = Discovery(
            me.fleet_id,
            me.credentials,
            found,
            registry.gone,
            moved=registry.network_changed,
            unreached=lambda: registry.unreached,
        )
        async with discovery:
            say(interfaces=discovery.report().interfaces, problems=discovery.report().problems, mute=discovery.report().mute)
            telling = asyncio.create_task(tell(registry))
            await stop.wait()
            telling.cancel()


async def tell(registry: Registry) -> None:
    told: dict[str, tuple[str, str]] = {}
    while True:
        changes = registry.changes
        for record in registry.records():
            now = (record.state, record.address)
            if told.get(record.device_id) != now:
                told[record.device_id] = now
                told_now = {"device": record.name, "state": record.state, "address": record.address, "at": time.monotonic()}
                say(**told_now, detail=record.detail, addresses=record.addresses)
        await registry.changed_within(changes, 0.1)


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main(Path(sys.argv[1])))
