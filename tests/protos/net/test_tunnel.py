"""Connections of bytes over one stream of frames."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from protos.errors import InvalidInput
from protos.net.tunnel import WINDOW_BYTES, Tunnel
from protos.v1 import relay_pb2 as pb
from tests.support.waiting import wait_until

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Ends:
    """Two tunnels whose frames reach each other, and two sockets that are joined by them."""

    near: Tunnel
    far: Tunnel
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    frames: list[pb.RelayFrame] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)  # of the test itself

    async def connection(self, number: int) -> tuple[Streams, Streams]:
        """What a stranger holds, and what the program behind the far end holds."""
        outside, inside = await pair()
        local, program = await pair()
        self.far.expect(number)
        self.tasks.append(asyncio.create_task(self.near.open(number, *inside)))
        self.tasks.append(asyncio.create_task(self.far.carry(number, *local)))
        self.writers += [outside[1], program[1]]
        return outside, program


async def pair() -> tuple[Streams, Streams]:
    accepted: asyncio.Future[Streams] = asyncio.get_running_loop().create_future()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result((reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    opened = await asyncio.open_connection(*server.sockets[0].getsockname())
    both = opened, await accepted
    server.close()
    return both


@asynccontextmanager
async def ends() -> AsyncIterator[Ends]:
    def to(which: Callable[[], Tunnel]) -> Callable[[pb.RelayFrame], Awaitable[object]]:
        async def send(frame: pb.RelayFrame) -> None:
            made.frames.append(frame)
            await asyncio.sleep(0)
            which().take(frame)

        return send

    made = Ends(Tunnel(to(lambda: made.far)), Tunnel(to(lambda: made.near)))
    try:
        yield made
    finally:
        made.near.end()
        made.far.end()
        for writer in made.writers:
            writer.transport.abort()
        async with asyncio.timeout(5):
            await asyncio.gather(*made.tasks)


async def read(reader: asyncio.StreamReader, count: int) -> bytes:
    async with asyncio.timeout(10):
        return await reader.readexactly(count)


async def test_bytes_arrive_both_ways_beside_each_other() -> None:
    async with ends() as made:
        one, other = await made.connection(1), await made.connection(2)
        for number, ((reader, writer), (there, back)) in enumerate((one, other)):
            sent, answered = bytes([number]) * 700_000, bytes([number + 8]) * 600_000
            writer.write(sent)
            back.write(answered)
            assert await read(there, len(sent)) == sent
            assert await read(reader, len(answered)) == answered
        assert max(len(frame.data) for frame in made.frames) <= 32 << 10


@pytest.mark.parametrize("who", ["outside", "program"])
async def test_who_closes_closes_the_other_end(who: str) -> None:
    async with ends() as made:
        outside, program = await made.connection(1)
        closing, staying = (outside, program) if who == "outside" else (program, outside)
        closing[1].write(b"the last words")
        closing[1].close()
        async with asyncio.timeout(5):
            assert await staying[0].read() == b"the last words"
            await asyncio.gather(*made.tasks)


async def test_who_reads_nothing_holds_up_neither_others_nor_much_memory() -> None:
    async with ends() as made:
        (_, writer), _ = await made.connection(1)
        (reader, other), (there, _) = await made.connection(2)
        writer.write(bytes(32 << 20))
        await wait_until(lambda: made.near._open[1].may_send == 0)
        assert made.far._open[1].unacknowledged <= WINDOW_BYTES
        other.write(b"x" * 100_000)
        assert await read(there, 100_000) == b"x" * 100_000
        assert not reader.at_eof()


async def test_what_comes_before_its_connection_stands_is_kept() -> None:
    async with ends() as made:
        made.far.expect(7)
        made.far.take(pb.RelayFrame(connection=7, data=b"early"))
        local, program = await pair()
        made.tasks.append(asyncio.create_task(made.far.carry(7, *local)))
        made.writers.append(program[1])
        assert await read(program[0], 5) == b"early"


async def test_who_sends_more_than_it_may_is_refused_and_what_is_of_no_connection_passed_over() -> None:
    async with ends() as made:
        kinds: list[dict[str, Any]] = [{"data": b"x"}, {"credit": 5}, {"ended": True}, {}]
        for kind in kinds:
            made.far.take(pb.RelayFrame(connection=9, **kind))
        made.far.expect(7)
        with contextlib.suppress(InvalidInput):
            made.far.take(pb.RelayFrame(connection=7, data=bytes(WINDOW_BYTES)))
        with pytest.raises(InvalidInput, match="more bytes"):
            made.far.take(pb.RelayFrame(connection=7, data=b"x"))
        made.far.take(pb.RelayFrame(connection=7, credit=2**32 - 1))
        assert made.far._open[7].may_send == WINDOW_BYTES
