"""Roles: a member's certificate opens what its role may call, over real TLS, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from fleet.trust.authority import Role
from protos.errors import Conflict, Denied, FleetError, InvalidInput, NotFound
from protos.ids import DeviceId, FleetId, digest_of
from protos.net.roles import Member, members_in, roles_for
from protos.net.transport import Peer, dial
from protos.rpc_errors import remote
from protos.v1 import device_pb2 as pb
from protos.v1 import gateway_pb2, member_pb2, pipeline_pb2
from tests.support.fake_device import FakeDevice
from tests.support.members import TestFleet

GENERATION = pb.Generation(deployment="x", number=1)


@asynccontextmanager
async def called_by(folder: Path, role: Role) -> AsyncIterator[tuple[FakeDevice, Peer]]:
    fleet = TestFleet.open(folder)
    caller = fleet.member("caller", role)
    async with FakeDevice(fleet.member("dev-1"), "dev-1") as device:
        peer = dial(device.address, device.device, caller.credentials)
        try:
            yield device, peer
        finally:
            await peer.close()


async def call(peer: Peer, method: str) -> None:
    stub, metadata, timeout = peer.device_stub, peer.metadata, 10.0
    with remote("it"):
        match method:
            case "Describe":
                await stub.Describe(pb.DescribeRequest(), metadata=metadata, timeout=timeout)
            case "ReadLog":
                await stub.ReadLog(pb.ReadLogRequest(), metadata=metadata, timeout=timeout)
            case "StatBlobs":
                await stub.StatBlobs(pb.StatBlobsRequest(), metadata=metadata, timeout=timeout)
            case "PutBlob":
                header = pb.PutBlobHeader(digest=digest_of(b"x"), size_bytes=1)
                await stub.PutBlob(
                    iter([pb.PutBlobRequest(header=header), pb.PutBlobRequest(chunk=b"x")]), metadata=metadata, timeout=timeout
                )
            case "RetainBlobs":
                await stub.RetainBlobs(pb.RetainBlobsRequest(generation=GENERATION), metadata=metadata, timeout=timeout)
            case "LoadStage":
                await stub.LoadStage(pb.LoadStageRequest(generation=GENERATION, pipeline_id="p"), metadata=metadata, timeout=timeout)
            case "UnloadStage":
                await stub.UnloadStage(pb.UnloadStageRequest(generation=GENERATION, pipeline_id="p"), metadata=metadata, timeout=timeout)
            case "WatchTelemetry":
                watch = stub.WatchTelemetry(pb.WatchTelemetryRequest(interval_seconds=1), metadata=metadata, timeout=timeout)
                await watch.read()
                watch.cancel()
            case "Generate":
                generate = peer.pipeline_stub.Generate(metadata=metadata, timeout=timeout)
                with contextlib.suppress(grpc.RpcError):  # it may be refused before it is written: the answer says so
                    await generate.write(pipeline_pb2.GenerateRequest())
                await generate.read()
            case "Flow":
                flow = peer.pipeline_stub.Flow(metadata=metadata, timeout=timeout)
                with contextlib.suppress(grpc.RpcError):  # it may be refused before it is written: the answer says so
                    await flow.write(pipeline_pb2.FlowMessage())
                await flow.read()
            case "Mirror":
                mirror = peer.pipeline_stub.Mirror(metadata=metadata, timeout=timeout)
                with contextlib.suppress(grpc.RpcError):  # it may be refused before it is written: the answer says so
                    await mirror.write(pipeline_pb2.MirrorMessage())
                await mirror.read()


COMMANDS = ["Describe", "ReadLog", "StatBlobs", "PutBlob", "RetainBlobs", "LoadStage", "UnloadStage", "WatchTelemetry", "Generate"]


@pytest.mark.parametrize("method", COMMANDS)
async def test_a_device_cannot_command_another(tmp_path: Path, method: str) -> None:
    async with called_by(tmp_path, "device") as (device, peer):
        with pytest.raises(Denied, match=f"{method} is for a coordinator; the caller is a device"):
            await call(peer, method)
        assert (device.calls, device.blobs, device.stages, device.attached) == ([], {}, {}, [])


@pytest.mark.parametrize("method", COMMANDS)
async def test_a_coordinator_can(tmp_path: Path, method: str) -> None:
    async with called_by(tmp_path, "coordinator") as (device, peer):
        with contextlib.suppress(InvalidInput, Conflict, NotFound):  # what the device itself says to an empty request
            await call(peer, method)
        assert device.calls == [method]


@pytest.mark.parametrize("method", ["Describe", "RetainBlobs"])
async def test_a_coordinator_of_another_fleet_cannot_whoever_signed_for_it(tmp_path: Path, method: str) -> None:
    """Our authority's signature is good, but the certificate makes its owner a coordinator of another fleet."""
    fleet = TestFleet.open(tmp_path)
    caller = TestFleet(fleet.folder, replace(fleet.authority, fleet_id=FleetId("b" * 16))).member("caller", "coordinator")
    async with FakeDevice(fleet.member("dev-1"), "dev-1") as device:
        peer = dial(device.address, device.device, caller.credentials)
        try:
            with pytest.raises(Denied, match=f"{method} is for a coordinator; the caller is nobody of the fleet"):
                await call(peer, method)
        finally:
            await peer.close()
        assert device.calls == []


@pytest.mark.parametrize("method", ["Flow", "Mirror"])
async def test_only_a_device_is_a_neighbour_on_the_ring(tmp_path: Path, method: str) -> None:
    async with called_by(tmp_path, "coordinator") as (_, peer):
        with pytest.raises(Denied, match=f"{method} is for a device or gateway; the caller is a coordinator"):
            await call(peer, method)
    async with called_by(tmp_path, "device") as (_, peer):
        with pytest.raises(FleetError) as caught:
            await call(peer, method)
        assert not isinstance(caught.value, Denied)


def test_every_method_of_the_contract_is_for_somebody() -> None:
    methods = [
        f"/{service.full_name}/{method.name}"
        for file in (pb.DESCRIPTOR, gateway_pb2.DESCRIPTOR, member_pb2.DESCRIPTOR, pipeline_pb2.DESCRIPTOR)
        for service in file.services_by_name.values()
        for method in service.methods
    ]
    assert len(methods) == 18
    assert {roles_for(method) for method in methods} == {("coordinator",), ("device", "gateway")}


@pytest.mark.parametrize("method", ["/glmfleet.v1.Pipeline/Forgotten", "/other.Service/Describe", "", "/"])
def test_what_is_not_listed_is_for_nobody(method: str) -> None:
    assert roles_for(method) == ()


@pytest.mark.parametrize(
    ("names", "members"),
    [
        (["glmfleet://aaaaaaaaaaaaaaaa/device/bbbbbbbbbbbbbbbb"], [Member("device", DeviceId("b" * 16), FleetId("a" * 16))]),
        (["https://aaaaaaaaaaaaaaaa/coordinator/bbbbbbbbbbbbbbbb"], []),
        (["glmfleet://aaaaaaaaaaaaaaaa/device/bbbbbbbbbbbbbbbb/coordinator/x"], []),
        (["glmfleet://aaaaaaaaaaaaaaaa/device/bbbbbbbbbbbbbbbb\n"], []),
        ([], []),
    ],
)
def test_members_in_a_certificates_names(names: list[str], members: list[Member]) -> None:
    assert members_in(names) == members
