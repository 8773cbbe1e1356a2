"""The agent as a whole: it serves, is addressed by its id, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from device.agent.enrolling import Enrollable
from device.agent.identity import load_identity
from device.agent.program import Agent, AgentConfig, run_agent
from device.cpu import CpuHardware
from fleet.enrolling.enrolment import Enrolment
from fleet.trust.authority import Authority
from fleet.trust.tokens import Tokens
from protos.errors import Denied, FleetError, InvalidInput, NotFound
from protos.ids import DeviceId
from protos.net.listening import bound
from protos.net.transport import dial
from protos.net.watch import look
from protos.rpc_errors import remote
from protos.v1 import device_pb2 as pb
from protos.v1 import member_pb2
from tests.support.members import TestFleet, credentials_of
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.cpu.copy_bandwidth", lambda: 1.0)


@pytest.fixture
def fleet(tmp_path: Path) -> TestFleet:
    return TestFleet.open(tmp_path)


def config(folder: Path, port: int = 0, **changes: object) -> AgentConfig:
    return AgentConfig(folder, "box", "127.0.0.1", port, labels={"site": "roof"}, **changes)  # type: ignore[arg-type]


async def test_it_says_what_it_is_to_its_fleet_alone(fleet: TestFleet, tmp_path: Path) -> None:
    identity = fleet.member("dev")
    friend = credentials_of(fleet.member("coordinator", "coordinator"))
    stranger = credentials_of(TestFleet.open(tmp_path / "elsewhere").member("coordinator", "coordinator"))
    hardware = CpuHardware(1 << 20, 1)
    async with Agent(config(tmp_path / "dev"), hardware) as address:
        for device, credentials, error in (
            (identity.device_id, friend, None),
            (DeviceId("a" * 16), friend, FleetError),
            (identity.device_id, stranger, FleetError),
        ):
            peer = dial(address, device, credentials)
            try:
                if error:
                    with pytest.raises(error), remote("device"):
                        await peer.device_stub.Describe(pb.DescribeRequest(), metadata=peer.metadata)
                    continue
                described = await peer.device_stub.Describe(pb.DescribeRequest(), metadata=peer.metadata)
                assert (described.name, described.labels["site"], described.memory_bytes) == ("box", "roof", 1 << 20)
                with pytest.raises(NotFound, match="the call is for nobody"), remote("device"):
                    await peer.device_stub.Describe(pb.DescribeRequest())
            finally:
                await peer.close()
    hardware.close()


@pytest.mark.skipif(not any(one.address == "::1" for one in look(None).own), reason="no IPv6 here")
async def test_it_listens_on_an_ipv6_address(fleet: TestFleet, tmp_path: Path) -> None:
    identity, friend = fleet.member("dev"), credentials_of(fleet.member("coordinator", "coordinator"))
    hardware = CpuHardware(1 << 20, 1)
    async with Agent(AgentConfig(tmp_path / "dev", "box", "::1"), hardware) as address:
        assert address.startswith("[::1]:")
        peer = dial(address, identity.device_id, friend)
        described = await peer.device_stub.Describe(pb.DescribeRequest(), metadata=peer.metadata)
        assert described.name == "box"
        await peer.close()
    hardware.close()


async def test_a_port_in_use_is_one_line_and_leaves_nothing(fleet: TestFleet, tmp_path: Path) -> None:
    fleet.member("one")
    fleet.member("two")
    first, second = CpuHardware(1 << 20, 1), CpuHardware(1 << 20, 1)
    before = asyncio.all_tasks()
    async with Agent(config(tmp_path / "one"), first) as address:
        port = int(address.rpartition(":")[2])
        running = asyncio.all_tasks()
        with pytest.raises(InvalidInput, match=r"^port [0-9]+ is in use$"):
            await Agent(config(tmp_path / "two", port), second).__aenter__()
        await wait_until(lambda: asyncio.all_tasks() <= running)
    await wait_until(lambda: asyncio.all_tasks() <= before)
    async with Agent(config(tmp_path / "two", port), second) as again:
        assert again == address
    first.close()
    second.close()


async def test_plaintext_is_for_loopback_only(tmp_path: Path) -> None:
    hardware = CpuHardware(1 << 20, 1)
    with pytest.raises(Denied):
        await Agent(AgentConfig(tmp_path / "open", "box", "0.0.0.0", insecure=True), hardware).__aenter__()
    async with Agent(config(tmp_path / "dev", insecure=True), hardware) as address:
        assert address.startswith("127.0.0.1:")
    hardware.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it(fleet: TestFleet, tmp_path: Path, number: signal.Signals) -> None:
    fleet.member("dev")
    ready: list[str] = []
    try:
        running = asyncio.create_task(run_agent(config(tmp_path / "dev"), CpuHardware(1 << 20, 1), ready.append))
        await wait_until(lambda: ready)
        os.kill(os.getpid(), number)
        async with asyncio.timeout(10):
            await running
    finally:
        for one in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(one)
    assert len(ready) == 1


async def test_one_that_nobody_renewed_asks_its_fleet_while_it_runs(
    fleet: TestFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its coordinator was off for longer than the certificate lives, and the board was not: nobody starts it anew there."""
    monkeypatch.setattr("device.agent.program.EXPIRY_SECONDS", 0.02)
    Authority.open(tmp_path / "authority", life=timedelta(seconds=1.5)).issue_folder(tmp_path / "dev", "device", "dev")
    before, ready, waiting = load_identity(tmp_path / "dev"), list[str](), list[Enrollable]()
    running = asyncio.create_task(run_agent(config(tmp_path / "dev"), CpuHardware(1 << 20, 1), ready.append, waiting=waiting.append))
    joined: list[DeviceId] = []
    try:
        await wait_until(lambda: ready)
        await wait_until(lambda: waiting)
        tokens = Tokens(tmp_path / "authority")
        async with Enrolment(fleet.authority, tokens, lambda device, address, found_by: joined.append(device)) as ours:
            await wait_until(lambda: waiting[0].address)
            ours.heard(before.device_id, (waiting[0].address,), "mdns")
            await wait_until(lambda: len(ready) == 2)
        assert joined == [before.device_id] == [load_identity(tmp_path / "dev").device_id]
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            await running
    finally:
        for one in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(one)


async def test_one_that_is_taken_out_says_so_and_waits_as_a_new_board(fleet: TestFleet, tmp_path: Path) -> None:
    fleet.member("dev")
    said: list[str] = []
    running = asyncio.create_task(
        run_agent(
            config(tmp_path / "dev"),
            CpuHardware(1 << 20, 1),
            said.append,
            waiting=lambda board: said.append("waits"),
            removed=lambda: said.append("removed"),
        )
    )
    before = load_identity(tmp_path / "dev").device_id
    try:
        await wait_until(lambda: said)
        peer = dial(said[0], before, credentials_of(fleet.member("coordinator", "coordinator")))
        await peer.member_stub.Leave(member_pb2.LeaveRequest(), metadata=peer.metadata)
        await peer.close()
        await wait_until(lambda: len(said) == 3)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            await running
    finally:
        for one in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(one)
    assert said[1:] == ["removed", "waits"]


@pytest.mark.parametrize("insecure", [True, False])
async def test_a_port_in_use_is_two_lines_of_ours(tmp_path: Path, insecure: bool) -> None:
    """As a process: gRPC writes to the file descriptor. Neither verbosity is set, as for a user."""
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_VERBOSITY"}
    with bound("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "device", "--state", str(tmp_path / "dev"), "--host", "127.0.0.1", "--port", str(port)]
        agent = await asyncio.create_subprocess_exec(
            *command, *(["--insecure"] if insecure else []), stderr=asyncio.subprocess.PIPE, env=environment
        )
        _, err = await asyncio.wait_for(agent.communicate(), 60)
    assert agent.returncode == 1
    assert err.decode() == f"error: port {port} is in use\n  choose another with --port, or --port 0 for any free one\n"
