"""gRPC writes no lines of its own to people's terminals."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def test_grpc_tells_people_nothing_on_its_own() -> None:
    """It writes a line to stderr for each connection that a far side ends."""
    program = """
import asyncio, protos
from protos.ids import DeviceId
from protos.net.transport import dial, serve
from protos.v1 import device_pb2 as pb, device_pb2_grpc

class Slow(device_pb2_grpc.DeviceServicer):
    async def Describe(self, request, context):
        called.set()
        await asyncio.Event().wait()

async def main():
    global called
    called, one = asyncio.Event(), DeviceId("a" * 16)
    server, port = await serve("127.0.0.1:0", one, None, lambda server: device_pb2_grpc.add_DeviceServicer_to_server(Slow(), server))
    peer = dial(f"127.0.0.1:{port}", one, None)
    async def call():
        await peer.device_stub.Describe(pb.DescribeRequest(), metadata=peer.metadata)
    task = asyncio.ensure_future(call())
    await called.wait()
    await server.stop(None)
    await asyncio.gather(task, return_exceptions=True)
    await peer.close()

asyncio.run(main())
"""
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_VERBOSITY"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""


WATCHES = """
import importlib, os, sys

class Loader:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print(os.environ.get("GRPC_VERBOSITY"))

sys.meta_path.insert(0, Loader())
importlib.import_module(sys.argv[1])
import grpc
"""


@pytest.mark.parametrize(
    "module", ["device.__main__", "device.agent.enrolling", "sim_devices.__main__", "sim_devices.hollow.__main__", "fleet.enrolling.board"]
)
def test_whichever_module_is_loaded_first_grpc_writes_no_line_for_each_handshake(module: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_VERBOSITY"}
    done = subprocess.run([sys.executable, "-c", WATCHES, module], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["ERROR"]
