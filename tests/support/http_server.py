"""A real HTTP server on loopback around an application, for what a transport in memory cannot show: clients that leave."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fleet.api.connections import Door
from fleet.api.server import make_server
from tests.support.waiting import wait_until


@asynccontextmanager
async def serving(app: Any, door: Door | None = None) -> AsyncIterator[str]:
    """The base URL while inside."""
    door = door or Door()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = make_server(app, door, drain_seconds=1)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await wait_until(lambda: server.started, 5)
        try:
            yield f"{'https' if door.tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
