from __future__ import annotations

import asyncio
import os
import socket
import sys

import pytest

from protos.ids import DeviceId
from protos.net import transport
from protos.net.door import _sockets
from protos.net.thin import _TCP_THIN_LINEAR_TIMEOUTS, repeat_soon

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="an option of Linux")


def asked(one: socket.socket) -> bool:
    return bool(one.getsockopt(socket.IPPROTO_TCP, _TCP_THIN_LINEAR_TIMEOUTS))


def test_what_is_accepted_inherits_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as plain:
        repeat_soon([listening])
        for server, wanted in ((listening, True), (plain, False)):
            with socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
                assert asked(accepted) == wanted


async def test_an_agent_asks_for_it_on_all_its_connections() -> None:
    server, port = await transport.serve("127.0.0.1:0", DeviceId("me"), None, lambda _: None)
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(5):
            while len(numbers := [number for number, _ in _sockets(port)]) < 2:  # noqa: ASYNC110 (gRPC tells nobody)
                await asyncio.sleep(0.01)
        for number in numbers:
            with socket.socket(fileno=os.dup(number)) as one:
                assert asked(one)
        writer.close()
    finally:
        await server.stop(None)
