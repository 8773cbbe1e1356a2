"""Who may send rows to a stage: its neighbour in the plan alone, and only while that is of the fleet."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from protos.errors import Denied, FleetError
from protos.net.transport import dial
from protos.rpc_errors import remote
from protos.v1 import device_pb2, member_pb2, pipeline_pb2
from protos.versions import SPOKEN
from tests.support.checkpoints import TinyGlm
from tests.support.members import TestFleet, credentials_of
from tests.support.ring import Ring, ring, tiny_model


async def open_flow(made: Ring, folder: Path, who: str, to_stage: int, claims: str = "") -> None:
    """As the member `who`. Returns when it was accepted."""
    caller = TestFleet.open(folder).member(who)
    peer = made.peers[to_stage]
    thief = dial(peer.address, peer.device, credentials_of(caller))
    try:
        flow = thief.pipeline_stub.Flow(metadata=thief.metadata)
        opening = pipeline_pb2.FlowOpen(
            protocol_version=SPOKEN.newest,
            pipeline_id="test-1",
            manifest_digest=made.attach.manifest_digest,
            epoch=1,
            to_stage=to_stage,
            ring_id="a ring of my own",
            from_device=claims or caller.device_id,
        )
        with remote("it"):
            await flow.write(pipeline_pb2.FlowMessage(open=opening))
            reply = await flow.read()
        assert isinstance(reply, pipeline_pb2.FlowReply)
        assert reply.accepted
    finally:
        await thief.close()


@pytest.mark.parametrize("stage", [0, 1, 2])
async def test_another_member_cannot_join_or_end_a_ring(tmp_path: Path, stage: int) -> None:
    manifest, store = tiny_model(tmp_path, TinyGlm(layers=3))
    async with ring(tmp_path, manifest, store, 3) as made, made.client() as client:
        alone = await client.ask([5, 6, 7], 12)
        answer = asyncio.create_task(client.ask([5, 6, 7], 12))
        neighbour = made.peers[stage - 1].device
        # A member that holds no stage, one that does, and one that says it is the neighbour.
        for who, claims in (("thief", ""), (f"dev-{(stage + 1) % 3}", ""), ("thief", neighbour)):
            with pytest.raises(Denied, match=f"stage {stage} of test-1 takes rows from {neighbour}, not from"):
                await open_flow(made, tmp_path, who, stage, claims)
        assert (await answer).token_ids == alone.token_ids
        assert (await client.ask([5, 6, 7], 12)).token_ids == alone.token_ids


async def test_a_coordinator_of_the_release_before_names_no_neighbour(tmp_path: Path) -> None:
    manifest, store = tiny_model(tmp_path, TinyGlm(layers=2))
    async with ring(tmp_path, manifest, store, 2) as made:
        request = made.requests[1]
        request.ClearField("previous")
        with remote("it"):
            await made.peers[1].device_stub.LoadStage(request, metadata=made.peers[1].metadata)
        async with made.client() as client:
            assert len((await client.ask([5, 6, 7], 4)).token_ids) == 4


@pytest.mark.parametrize("told", [0, 1])
async def test_the_ring_ends_when_one_of_it_is_expelled(tmp_path: Path, told: int) -> None:
    """Told to its neighbour before it in the ring, or to the one behind it."""
    manifest, store = tiny_model(tmp_path, TinyGlm(layers=2))
    async with ring(tmp_path, manifest, store, 2) as made, made.client() as client:
        number = await client.start([5, 6, 7], 100)
        revoke = member_pb2.RevokeRequest(members=[made.peers[1 - told].device])
        start = time.monotonic()
        with remote("it"):
            await made.peers[told].member_stub.Revoke(revoke, metadata=made.peers[told].metadata)
        answer = await asyncio.wait_for(client.end(number), 2)
        assert time.monotonic() - start < 2
        assert isinstance(answer.error, FleetError)


def test_a_neighbour_that_is_none_is_refused() -> None:
    from device.stage_spec import parse_spec
    from protos.errors import InvalidInput

    request = device_pb2.LoadStageRequest(
        generation=device_pb2.Generation(deployment="x", number=1), manifest_digest="a" * 64, previous=device_pb2.Hop(device_id="../x")
    )
    with pytest.raises(InvalidInput):
        parse_spec(request)
