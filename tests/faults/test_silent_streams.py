"""Streams that are opened and then say nothing: the device lets them go, and what they held is free for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from device.cpu import CpuHardware
from protos.errors import TimedOut
from protos.ids import digest_of
from protos.net.transport import dial
from protos.rpc_errors import remote
from protos.v1 import device_pb2 as pb
from tests.support.members import TestFleet, credentials_of
from tests.support.ring import agents, put_blob

DATA = bytes(100_000)


async def test_a_pipeline_stream_that_does_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.agent.pipeline_service.OPENING_SECONDS", 0.05)
    async with agents(tmp_path, [CpuHardware(1 << 30, 1)]) as (_, (peer,), _):
        with pytest.raises(TimedOut, match="nothing was said"), remote("it"):
            await peer.pipeline_stub.Generate(metadata=peer.metadata, timeout=10).read()
        neighbour = dial(peer.address, peer.device, credentials_of(TestFleet.open(tmp_path).member("neighbour")))
        with pytest.raises(TimedOut, match="nothing was said"), remote("it"):
            await neighbour.pipeline_stub.Flow(metadata=neighbour.metadata, timeout=10).read()
        await neighbour.close()


async def test_a_blob_whose_sender_stopped_can_be_continued_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.agent.device_service.SILENT_SECONDS", 0.05)
    digest = digest_of(DATA)
    async with agents(tmp_path, [CpuHardware(1 << 30, 1)]) as (_, (peer,), _):
        call = peer.device_stub.PutBlob(metadata=peer.metadata, timeout=10)
        await call.write(pb.PutBlobRequest(header=pb.PutBlobHeader(digest=digest, size_bytes=len(DATA))))
        await call.write(pb.PutBlobRequest(chunk=DATA[:60_000]))
        with pytest.raises(TimedOut, match="nothing came of the blob"), remote("it"):
            await call
        await put_blob(peer, digest, DATA, offset=60_000)
        reply = await peer.device_stub.StatBlobs(pb.StatBlobsRequest(digests=[digest]), metadata=peer.metadata)
        assert reply.blobs[0].complete
