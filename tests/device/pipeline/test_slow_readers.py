"""A client that asks and asks and reads nothing, at a real agent: it is stopped, and the others get their answers."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from device.pipeline.clients import MOST_UNREAD
from protos.net import transport
from protos.v1 import pipeline_pb2
from tests.support.checkpoints import TinyGlm
from tests.support.ring import ring, tiny_model

MANY = 30_000
# Refused, and of a size that the buffers between do not hold many of.
REQUEST = pipeline_pb2.GenerateRequest(submit=pipeline_pb2.Submit(sequence=1, prompt_ids=[1 << 30] * 400, max_tokens=1))


async def test_who_reads_nothing_is_read_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # gRPC itself keeps megabytes for a reader, as much as it thinks that the link is worth.
    monkeypatch.setattr(transport, "_CLIENT", [*transport._CLIENT, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)])
    async with ring(tmp_path, *tiny_model(tmp_path, TinyGlm()), 1) as one, one.client() as other:
        deaf = one.peers[0].pipeline_stub.Generate(metadata=one.peers[0].metadata)
        await deaf.write(pipeline_pb2.GenerateRequest(attach=one.attach))
        written = 0

        async def ask() -> None:
            nonlocal written
            for _ in range(MANY):
                await deaf.write(REQUEST)
                written += 1

        asking = asyncio.create_task(ask())
        before = -1
        while not asking.done() and before != written:
            before = written
            await asyncio.sleep(1.0)
        assert MOST_UNREAD <= written < MANY  # it stands
        assert len((await asyncio.wait_for(other.ask([1, 2, 3], 8), 20)).token_ids) == 8
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        deaf.cancel()


async def test_who_reads_late_gets_all_that_it_was_told(tmp_path: Path) -> None:
    async with ring(tmp_path, *tiny_model(tmp_path, TinyGlm()), 1) as one:
        late = one.peers[0].pipeline_stub.Generate(metadata=one.peers[0].metadata)
        await late.write(pipeline_pb2.GenerateRequest(attach=one.attach))
        count = 3 * MOST_UNREAD

        async def ask() -> None:
            for _ in range(count):
                await late.write(REQUEST)

        asking, refused = asyncio.create_task(ask()), 0
        await asyncio.sleep(0.5)
        while refused < count:
            event = await asyncio.wait_for(late.read(), 20)
            assert isinstance(event, pipeline_pb2.GenerateEvent)
            refused += len(event.finished)
        await asking
        late.cancel()
