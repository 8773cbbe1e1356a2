from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fleet.devices.client import DeviceClient
from protos.errors import Busy, Conflict, Corrupt, InvalidInput, NoSpace, Unavailable
from protos.ids import PipelineId, digest_of
from protos.net.transport import CHUNK_BYTES, dial
from protos.v1 import device_pb2 as pb
from tests.support.fake_device import FakeDevice
from tests.support.members import TestFleet, credentials_of
from tests.support.waiting import wait_until

DATA = bytes(range(256)) * (CHUNK_BYTES // 256) * 3 + b"and a little more"
DIGEST = digest_of(DATA)


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[tuple[DeviceClient, FakeDevice, Path]]:
    fleet = TestFleet.open(folder)
    path = folder / DIGEST
    path.write_bytes(DATA)
    async with FakeDevice(fleet.member("dev-1"), "dev-1") as device:
        peer = dial(device.address, device.device, credentials_of(fleet.member("coordinator", "coordinator")))
        yield DeviceClient(peer, "dev-1"), device, path
        await peer.close()


async def test_blob_arrives_in_chunks_and_progress_is_told(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, device, path):
        told: list[int] = []
        await client.put_blob(DIGEST, path, len(DATA), progress=told.append)
        assert bytes(device.blobs[DIGEST]) == DATA
        assert told == [0, CHUNK_BYTES, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES, len(DATA)]


async def test_cut_transfers_are_resumed_where_they_ended(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, device, path):
        device.is_told.cut_after_bytes = [CHUNK_BYTES + 7, 2 * CHUNK_BYTES + 1]
        told: list[int] = []
        await client.put_blob(DIGEST, path, len(DATA), progress=told.append)
        assert device.complete == {DIGEST}
        assert bytes(device.blobs[DIGEST]) == DATA
        assert CHUNK_BYTES + 7 in told  # the second transfer began there
        assert 2 * CHUNK_BYTES + 1 in told
        assert device.calls.count("PutBlob") == 3


async def test_transfer_without_headway_ends_after_its_tries(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, device, path):
        device.is_told.errors["PutBlob"] = Unavailable("out of order")
        with pytest.raises(Unavailable, match="dev-1: out of order"):
            await client.put_blob(DIGEST, path, len(DATA), progress=lambda _: None, tries=2)
        assert device.calls.count("PutBlob") == 2


async def test_refusal_is_not_tried_again(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, device, path):
        device.is_told.errors["PutBlob"] = NoSpace("the disk is full")
        with pytest.raises(NoSpace, match="dev-1: the disk is full"):
            await client.put_blob(DIGEST, path, len(DATA), progress=lambda _: None)
        assert device.calls.count("PutBlob") == 1


async def test_present_blob_is_not_sent(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, device, path):
        device.hold_blob(DATA)
        told: list[int] = []
        await client.put_blob(DIGEST, path, len(DATA), progress=told.append)
        assert told == [len(DATA)]
        assert "PutBlob" not in device.calls


async def test_our_own_copy_is_checked(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, device, path):
        path.write_bytes(DATA[:-1])
        with pytest.raises(Corrupt, match="instead of"):
            await client.put_blob(DIGEST, path, len(DATA), progress=lambda _: None)
        path.unlink()
        with pytest.raises(Corrupt, match="missing"):
            await client.put_blob(DIGEST, path, len(DATA), progress=lambda _: None)
        device.hold_blob(DATA + b"!", present=len(DATA) + 1)
        device.blobs[DIGEST] = device.blobs.pop(digest_of(DATA + b"!"))
        with pytest.raises(InvalidInput, match="holds"):
            await client.put_blob(DIGEST, path, len(DATA), progress=lambda _: None)


async def test_stat_names_what_the_device_does_not(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, device, _):
        device.hold_blob(DATA, present=10)
        states = await client.stat_blobs([DIGEST, digest_of(b"other")])
        assert [(state.complete, state.present_bytes) for state in states.values()] == [(False, 10), (False, 0)]


async def test_errors_come_back_by_class_with_the_device_in_front(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, device, _):
        device.is_told.errors["UnloadStage"] = Busy("a load is running", retry_after_seconds=2.5)
        with pytest.raises(Busy, match="dev-1: a load is running") as busy:
            await client.unload_stage(pb.Generation(deployment="tiny", number=1), PipelineId("tiny-1"))
        assert busy.value.retry_after_seconds == 2.5
        device.highest["tiny"] = 5
        with pytest.raises(Conflict, match="older"):
            await client.retain_blobs(pb.Generation(deployment="tiny", number=1), [])


async def test_cancelled_push_leaves_no_call_open(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, device, path):
        device.is_told.holds["PutBlob"] = asyncio.Event()
        push = asyncio.create_task(client.put_blob(DIGEST, path, len(DATA), progress=lambda _: None))
        await wait_until(lambda: "PutBlob" in device.calls)
        push.cancel()
        with pytest.raises(asyncio.CancelledError):
            await push
        device.is_told.holds["PutBlob"].set()
        assert device.complete == set()
