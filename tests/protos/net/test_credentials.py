"""Certificates that are renewed and members that are expelled, over real TLS."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from protos.errors import Denied
from protos.ids import DeviceId
from protos.net.credentials import Revoked
from protos.net.transport import dial
from protos.rpc_errors import remote
from protos.v1 import device_pb2 as pb
from tests.support.fake_device import FakeDevice
from tests.support.members import TestFleet, credentials_of

A, B = DeviceId("a" * 16), DeviceId("b" * 16)


async def test_what_is_done_with_a_member_ends_when_it_is_expelled() -> None:
    revoked, entered = Revoked(), asyncio.Event()

    async def work(*members: DeviceId | None) -> None:
        async with revoked.unless(*members):
            entered.set()
            await asyncio.sleep(60)

    with_a, with_both, with_b = (asyncio.create_task(work(*members)) for members in ((A,), (B, A, None), (B,)))
    await entered.wait()
    await asyncio.sleep(0)
    revoked.add([A])
    for task in (with_a, with_both):
        with pytest.raises(Denied, match=f"{A} was expelled"):
            await asyncio.wait_for(task, 1)
    assert not with_b.done()
    with pytest.raises(Denied):
        async with revoked.unless(A):
            pytest.fail("entered")
    revoked.add([])  # an older list that comes late
    assert A in revoked
    with_b.cancel()
    await asyncio.gather(with_b, return_exceptions=True)


async def test_a_time_limit_of_ones_own_stays_ones_own() -> None:
    revoked = Revoked()
    with pytest.raises(TimeoutError):
        async with revoked.unless(A), asyncio.timeout(0.01):
            await asyncio.sleep(60)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), revoked.unless(A):
            await asyncio.sleep(60)


async def test_a_renewed_certificate_is_shown_to_who_comes_and_drops_nobody(tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    me = fleet.member("dev-1")
    coordinator = credentials_of(fleet.member("coordinator", "coordinator"))
    async with FakeDevice(me, "dev-1") as device:
        first = dial(device.address, device.device, coordinator)
        watch = first.device_stub.WatchTelemetry(pb.WatchTelemetryRequest(interval_seconds=0.1), metadata=first.metadata)
        await watch.read()
        (tmp_path / "dev-1" / "certificate.pem").unlink()
        fleet.authority.issue_folder(tmp_path / "dev-1", "device", "dev-1")
        credentials_of(me).renew(renewed := (tmp_path / "dev-1" / "certificate.pem").read_bytes())
        # By the ssl module, which tells what was shown.
        assert await shown(device.address) == renewed
        assert isinstance(await watch.read(), object)
        with remote("it"):
            await first.device_stub.Describe(pb.DescribeRequest(), metadata=first.metadata, timeout=5)
        watch.cancel()
        await first.close()


async def to_its_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def shown(address: str) -> bytes:
    """The certificate that a new connection is shown, PEM."""
    host, port = address.rsplit(":", 1)
    return (await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))).encode()


async def test_a_caller_that_is_expelled_is_refused_and_its_streams_end(tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    me, other = fleet.member("dev-1"), fleet.member("coordinator", "coordinator")
    async with FakeDevice(me, "dev-1") as device:
        peer = dial(device.address, device.device, credentials_of(other))
        watch = peer.device_stub.WatchTelemetry(pb.WatchTelemetryRequest(interval_seconds=0.05), metadata=peer.metadata)
        await watch.read()
        credentials_of(me).revoked.add([other.device_id])
        start = time.monotonic()
        with pytest.raises(Denied, match="was expelled from the fleet"), remote("it"):
            await to_its_end(watch)
        assert time.monotonic() - start < 2
        with pytest.raises(Denied, match="was expelled from the fleet"), remote("it"):
            await peer.device_stub.Describe(pb.DescribeRequest(), metadata=peer.metadata, timeout=5)
        await peer.close()
