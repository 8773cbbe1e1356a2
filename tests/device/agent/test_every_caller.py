"""Every method of real agents, asked by everybody whom it is not for: strangers, the revoked, members that the plan does not name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import grpc

from device.agent.member_service import MemberService
from protos.ids import DeviceId, gateway_host_name, host_name, member_id
from protos.net.credentials import Credentials
from protos.net.transport import Peer
from protos.v1 import device_pb2, member_pb2, pipeline_pb2
from protos.versions import SPOKEN
from sim_devices.hollow.fleet import HollowFleet
from tests.support.callers import STRANGERS, channel_to, status, stranger
from tests.support.checkpoints import TinyGlm
from tests.support.hollow_fleet import hollow_plan
from tests.support.members import TestFleet, credentials_of
from tests.support.methods import every_method
from tests.support.ring import Ring, ring, tiny_model

OK, DENIED, NO_LINK = None, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE
MISSING, NO_RING = grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.FAILED_PRECONDITION
Told = dict[str, grpc.StatusCode | None]
AGENT = ("Device", "Member", "Pipeline")  # services that the agent of a board has
GATEWAY = ("Gateway", "Member")  # that a gateway has for itself; those of the devices behind it are Device and Pipeline
ENDS = "Member.Leave"  # only asked by those who are refused


async def told(
    fleet: TestFleet, address: str, name: str, me: Credentials | None, device: DeviceId, messages: Mapping[str, bytes], but: str = ""
) -> Told:
    """What each method says to `me`; an empty message where `messages` has none."""
    async with channel_to(address, name, fleet, me) as channel:
        return {
            str(method): await status(channel, method, device, messages.get(str(method), b""))
            for method in every_method()
            if str(method) != but
        }


def refused(services: tuple[str, ...], how: grpc.StatusCode) -> Told:
    return {str(method): how if method.service in services or how is NO_LINK else MISSING for method in every_method()}


def opening(made: Ring, stage: int, claims: str) -> bytes:
    opened = pipeline_pb2.FlowOpen(
        protocol_version=SPOKEN.newest,
        pipeline_id="test-1",
        manifest_digest=made.attach.manifest_digest,
        epoch=1,
        to_stage=stage,
        ring_id="a ring of my own",
        from_device=claims,
    )
    return pipeline_pb2.FlowMessage(open=opened).SerializeToString()


async def stands_by(made: Ring, stage: int, neighbour: DeviceId) -> bytes:
    """The device of that stage stands by for the pipeline "kept", whose rows the neighbour mirrors: how it would begin."""
    load, peer = device_pb2.LoadStageRequest(), made.peers[stage]
    load.CopyFrom(made.requests[stage])
    load.pipeline_id, load.standby = "kept", True
    load.mirror_from.CopyFrom(device_pb2.Hop(device_id=neighbour))
    await peer.device_stub.LoadStage(load, metadata=peer.metadata)
    opened = pipeline_pb2.MirrorOpen(
        protocol_version=SPOKEN.newest,
        pipeline_id="kept",
        manifest_digest=made.attach.manifest_digest,
        stage=stage,
        from_device=neighbour,
    )
    return pipeline_pb2.MirrorMessage(open=opened).SerializeToString()


async def test_stages_answer_their_coordinator_and_their_neighbour_alone(tmp_path: Path) -> None:
    fleet, others = TestFleet.open(tmp_path), TestFleet.open(tmp_path / "others")
    manifest, store = tiny_model(tmp_path, TinyGlm(layers=3))
    async with ring(tmp_path, manifest, store, 3) as made:
        attach = pipeline_pb2.GenerateRequest(attach=made.attach).SerializeToString()
        for stage in (0, 1):
            peer, neighbour = made.peers[stage], made.peers[stage - 1].device
            mirrored = await stands_by(made, stage, neighbour)
            # With good words, in which each says to be the neighbour: only who they are is wrong.
            messages = {"Pipeline.Flow": opening(made, stage, neighbour), "Pipeline.Generate": attach, "Pipeline.Mirror": mirrored}

            async def said_to(me: Credentials | None, but: str = "", peer: Peer = peer, messages: Mapping[str, bytes] = messages) -> Told:
                return await told(fleet, peer.address, host_name(peer.device), me, peer.device, messages, but)

            for kind in STRANGERS:
                assert await said_to(stranger(fleet, others, kind)) == refused(AGENT, NO_LINK), kind
            members = {
                "no stage of it": fleet.member("thief"),
                "a gateway": fleet.member("a gateway", "gateway"),
                "the stage behind it": fleet.member(f"dev-{(stage + 1) % 3}"),
                "itself": fleet.member(f"dev-{stage}"),
            }
            for kind, member in members.items():
                assert await said_to(credentials_of(member)) == refused(AGENT, DENIED), kind
            previous, coordinator = fleet.member(f"dev-{(stage - 1) % 3}"), fleet.member("coordinator", "coordinator")
            assert previous.device_id == neighbour
            # The same words of its neighbour are looked at: it is the head that knows of no such ring.
            assert await said_to(credentials_of(previous)) == {**refused(AGENT, DENIED), "Pipeline.Flow": NO_RING, "Pipeline.Mirror": OK}
            answers = await said_to(credentials_of(coordinator), ENDS)
            denied = {"Pipeline.Flow", "Pipeline.Mirror", "Member.Renew"}  # the last is an empty one
            assert {method for method, answer in answers.items() if answer is DENIED} == denied
            assert answers["Device.Describe"] is OK
        # Whom it was for, once more, when they are expelled.
        expelled = member_pb2.RevokeRequest(members=[previous.device_id, coordinator.device_id])
        await peer.member_stub.Revoke(expelled, metadata=peer.metadata)
        for one in (previous, coordinator):
            assert await said_to(credentials_of(one)) == refused(AGENT, DENIED), one


async def test_a_gateway_and_the_devices_behind_it_answer_their_coordinator_alone(tmp_path: Path) -> None:
    fleet, others = TestFleet.open(tmp_path), TestFleet.open(tmp_path / "others")
    identity, coordinator = fleet.member("gateway", "gateway"), fleet.member("coordinator", "coordinator")
    mine = credentials_of(identity)
    service = MemberService(tmp_path / "gateway", mine, lambda: None)
    async with HollowFleet(hollow_plan(1), identity, membership=service) as gateway:
        behind = member_id(gateway.gateway, "1")

        async def said_to(me: Credentials | None) -> tuple[Told, Told]:
            """By the gateway itself, and by the device behind it."""
            name = gateway_host_name(gateway.gateway)
            itself = await told(fleet, gateway.address, name, me, gateway.gateway, {}, ENDS)
            return itself, await told(fleet, gateway.address, name, me, behind, {}, ENDS)

        def expected(how: grpc.StatusCode, flow: grpc.StatusCode) -> tuple[Told, Told]:
            itself, device = refused(GATEWAY, how), {**refused(("Device", "Pipeline"), how), "Pipeline.Flow": flow, "Pipeline.Mirror": flow}
            return {key: value for key, value in itself.items() if key != ENDS}, {
                key: value for key, value in device.items() if key != ENDS
            }

        for kind in STRANGERS:
            assert await said_to(stranger(fleet, others, kind)) == expected(NO_LINK, NO_LINK), kind
        for role in ("device", "gateway"):
            # The device behind it has no stage: rows for none are not taken, from whomever.
            found = await said_to(credentials_of(fleet.member(f"a {role}", role)))
            assert found == expected(DENIED, grpc.StatusCode.INVALID_ARGUMENT), role
        itself, device = await said_to(credentials_of(coordinator))
        assert (itself["Gateway.Watch"], device["Device.Describe"], device["Pipeline.Flow"]) == (OK, OK, DENIED)
        mine.revoked.add([coordinator.device_id])
        assert await said_to(credentials_of(coordinator)) == expected(DENIED, DENIED)
