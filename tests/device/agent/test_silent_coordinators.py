"""A coordinator whose machine is gone: what it asked for is freed. One that announces no beats, of the release before, may be silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from protos.errors import FleetError, InvalidInput, Unavailable
from protos.net.transport import Peer
from protos.rpc_errors import remote
from protos.v1 import pipeline_pb2 as pb
from tests.device.agent.test_device_service import _quick_start, attach, describe, device, load, push, stages  # noqa: F401 (fixtures)
from tests.support.stage_specs import TinyStages
from tests.support.waiting import wait_until

Call = grpc.aio.StreamStreamCall[pb.GenerateRequest, pb.GenerateEvent]


@asynccontextmanager
async def attached(folder: Path, stages: TinyStages, beat_milliseconds: int) -> AsyncIterator[tuple[Peer, Call, pb.GenerateEvent]]:
    (request,) = stages.requests()
    async with device(folder) as peer:
        await push(peer, stages, request)
        await load(peer, request)
        call = peer.pipeline_stub.Generate(metadata=peer.metadata)
        opening = attach(request)
        opening.beat_milliseconds = beat_milliseconds
        await call.write(pb.GenerateRequest(attach=opening))
        event = await call.read()
        assert isinstance(event, pb.GenerateEvent)
        yield peer, call, event
        call.cancel()


async def end_of(call: Call) -> FleetError:
    """What the stream ends with."""
    try:
        with remote("it"):
            while await call.read() is not grpc.aio.EOF:
                pass
    except FleetError as error:
        return error
    raise AssertionError("it ended well")


async def open_sequences(peer: Peer) -> int:
    return sum(stage.open_sequences for stage in (await describe(peer)).stages)


async def test_one_that_beats_and_falls_silent_is_gone_and_what_it_asked_for_is_freed(tmp_path: Path, stages: TinyStages) -> None:
    async with attached(tmp_path, stages, 100) as (peer, call, event):
        assert event.takes_beats
        await call.write(pb.GenerateRequest(submit=pb.Submit(sequence=1, prompt_ids=[1, 2], max_tokens=50)))
        await call.write(pb.GenerateRequest(pause=pb.Pause(sequence=1, paused=True)))
        for _ in range(12):  # longer than the silence that ends it
            await asyncio.sleep(0.1)
            await call.write(pb.GenerateRequest())
        assert not call.done()
        begun = time.monotonic()
        error = await end_of(call)
        assert isinstance(error, Unavailable)
        assert error.detail.startswith("it: the coordinator: it was silent for 0.")
        assert 0.4 < time.monotonic() - begun < 3.0
        freed = [await open_sequences(peer)]
        await wait_until(lambda: freed[-1] == 0)


async def test_one_of_the_release_before_may_be_silent_and_must_not_beat(tmp_path: Path, stages: TinyStages) -> None:
    async with attached(tmp_path, stages, 0) as (_, call, event):
        assert not event.takes_beats
        await asyncio.sleep(1.2)
        assert not call.done()
        await call.write(pb.GenerateRequest())
        assert isinstance(await end_of(call), InvalidInput)


pytestmark = pytest.mark.usefixtures("_quick_start")
