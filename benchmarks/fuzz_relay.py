"""A coordinator's relay, as a process of its own, for benchmarks.fuzz: says where it is, until it is ended."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from device.agent.identity import load_identity
from fleet.devices.relays import Relays


async def _run(folder: Path) -> None:
    credentials = load_identity(folder).credentials
    assert credentials is not None
    async with Relays("127.0.0.1:0", credentials, lambda: (), lambda _device, _addresses: None) as relays:
        print(json.dumps({"address": f"127.0.0.1:{relays.port}"}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run(Path(sys.argv[1])))
