"""A board that waits for a fleet, as a process of its own, for benchmarks.fuzz: says where it is, leaves what it shows in its folder."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path

from device.agent.enrolling import Enrollable


async def _run(folder: Path) -> None:
    async with Enrollable(folder, "fuzzed", "a board", "127.0.0.1:0", interfaces=("127.0.0.1",)) as board:
        host, _, port = board.address.rpartition(":")
        shown = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
        (folder / "shown.pem").write_text(shown)
        (folder / "id").write_text(board.board)
        print(json.dumps({"address": board.address}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run(Path(sys.argv[1])))
