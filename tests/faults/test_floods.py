"""Floods against an agent in a process of its own, with few descriptors: it stays online, lets members in, and its log stays short."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
import pytest

from device.agent.identity import Identity
from fleet.devices.probe import client_context
from fleet.devices.registry import Registry
from tests.support.members import TestFleet, credentials_of
from tests.support.waiting import wait_until

DESCRIPTORS, FLOOD = 256, 500
STRANGER = "127.0.0.2"
AGENT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv[1:2] = []
from device.__main__ import main
main()
"""

pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Agent:
    identity: Identity
    address: str
    process: psutil.Process
    log: Path

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@asynccontextmanager
async def agent(fleet: TestFleet) -> AsyncIterator[Agent]:
    identity = fleet.member("dev-1")
    options = ["--state", str(fleet.folder / "dev-1"), "--name", "dev-1", "--host", "127.0.0.1", "--port", "0", "--interface", "127.0.0.1"]
    with (fleet.folder / "log.txt").open("ab") as log:
        process = await asyncio.to_thread(started, [sys.executable, "-c", AGENT, str(DESCRIPTORS), *options], log)
    try:
        assert process.stdout is not None
        said = json.loads(await asyncio.to_thread(process.stdout.readline))
        yield Agent(identity, said["address"], psutil.Process(process.pid), fleet.folder / "log.txt")
    finally:
        process.terminate()
        process.communicate(timeout=20)


def started(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Without what this process has told gRPC: an agent says it itself."""
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_VERBOSITY"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)


def silent(port: int) -> socket.socket:
    one = socket.socket()
    one.setblocking(False)
    one.bind((STRANGER, 0))
    one.connect_ex(("127.0.0.1", port))
    return one


async def test_silent_connections_do_not_take_a_device_offline(tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    samples: list[object] = []
    async with agent(fleet) as device, Registry(credentials_of(fleet.member("me", "coordinator")), samples.append) as registry:

        def online(registry: Registry) -> bool:
            record = registry.record(device.identity.device_id)
            return record is not None and record.state == "online"

        registry.found(device.identity.device_id, (device.address,), "seed")
        await wait_until(lambda: online(registry))
        with ExitStack() as stack:
            for _ in range(FLOOD):
                stack.enter_context(silent(device.port))
            before = len(samples)
            await wait_until(lambda: len(samples) >= before + 5, 10)  # one a second: none is missing
            assert online(registry)
            assert device.process.num_fds() < DESCRIPTORS
            async with Registry(credentials_of(fleet.member("late", "coordinator")), lambda _sample: None) as late:
                late.found(device.identity.device_id, (device.address,), "seed")
                await wait_until(lambda: online(late), 10)
        assert "Traceback" not in device.log.read_text()


async def test_handshakes_without_a_certificate_of_the_fleet_write_no_log(tmp_path: Path) -> None:
    fleet, others = TestFleet.open(tmp_path), TestFleet.open(tmp_path / "others")
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs = client_context(credentials_of(others.member("me", "coordinator")))
    for context in (nobody, theirs):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    nobody.set_alpn_protocols(["h2"])

    async with agent(fleet) as device:

        async def shake(context: ssl.SSLContext) -> None:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", device.port, ssl=context)
                with suppress(OSError):
                    assert await asyncio.wait_for(reader.read(), 10) == b""  # it is ended, before a word of ours
                writer.transport.abort()

        for _ in range(50):
            await asyncio.gather(*[shake(context) for context in (nobody, theirs)])
        assert device.log.stat().st_size < 1000


NO_TLS = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(300), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]


@pytest.mark.parametrize("said", NO_TLS)
async def test_what_is_no_tls_writes_no_log(tmp_path: Path, said: bytes) -> None:
    async with agent(TestFleet.open(tmp_path)) as device:
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", device.port)) as one:
                one.sendall(said)
        with socket.create_connection(("127.0.0.1", device.port)) as one:
            one.sendall(said)
            with suppress(ConnectionError):
                await asyncio.to_thread(one.recv, 100)
        assert device.log.stat().st_size < 1000
