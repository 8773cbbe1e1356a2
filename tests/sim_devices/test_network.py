"""Doors and lanes: who dials whom is told apart, and what is cut is silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sim_devices.links import LinkRule, LinkShape
from sim_devices.network import ShapedNetwork
from tests.support.waiting import wait_until

SLOW = LinkShape(delay_seconds=0.05)


@asynccontextmanager
async def network_of(*names: str) -> AsyncIterator[tuple[ShapedNetwork, dict[str, tuple[int, int]]]]:
    """Each name answers what it is asked with its name in front."""
    network, ports = ShapedNetwork(), {}

    def echo(name: str) -> object:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(1000):
                    writer.write(f"{name} heard ".encode() + data)
            except ConnectionError:
                pass
            finally:
                writer.close()

        return accepted

    servers = []
    try:
        for name in names:
            servers.append(await asyncio.start_server(echo(name), "127.0.0.1", 0))  # type: ignore[arg-type]
            ports[name] = await network.add(name)
            network.target(name, "127.0.0.1:%d" % servers[-1].sockets[0].getsockname()[1])  # noqa: UP031
        yield network, ports
    finally:
        await network.close()
        for server in servers:
            server.close()


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bytes:
    writer.write(text)
    return await reader.read(1000)


async def nothing_from(reader: asyncio.StreamReader) -> bool:
    """The end, or a reset, without a byte before it."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def connected(port: int, to: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Through a front door, or through a back door to the front door at `to`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if to is not None:
        writer.write(f"CONNECT 127.0.0.1:{to} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 OK\r\n\r\n"
    return reader, writer


async def test_each_pair_has_its_own_lane() -> None:
    async with network_of("a", "b") as (network, ports):
        network.shape([LinkRule("a", "b", SLOW, both_ways=False)], seed=1)
        loop = asyncio.get_running_loop()
        outside, inside = await connected(ports["b"][0]), await connected(ports["a"][1], to=ports["b"][0])
        back = await connected(ports["b"][1], to=ports["a"][0])
        for streams, heard, least in ((outside, b"b heard x", 0.0), (inside, b"b heard x", 0.049), (back, b"a heard x", 0.0)):
            start = loop.time()
            assert await said(*streams, b"x") == heard
            assert loop.time() - start >= least
            streams[1].close()
        assert network.lane("a", "b").line.shape == SLOW
        assert network.lane("b", "a").line.shape == LinkShape()


async def test_a_cut_is_silence_and_what_waited_passes() -> None:
    async with network_of("a", "b", "c") as (network, ports):
        ab, cb = await connected(ports["a"][1], to=ports["b"][0]), await connected(ports["c"][1], to=ports["b"][0])
        network.cut([frozenset(("a", "b"))])
        assert await said(*cb, b"x") == b"b heard x"
        ab[1].write(b"y")
        late = asyncio.create_task(connected(ports["a"][1], to=ports["b"][0]))  # nor is a new connection answered
        reading = asyncio.create_task(ab[0].read(1000))
        assert await said(*cb, b"x") == b"b heard x"
        assert not reading.done()
        assert not late.done()
        network.cut([])
        assert await reading == b"b heard y"
        for _, writer in (ab, cb, await late):
            writer.close()


async def test_who_is_not_there_is_refused_and_who_asks_nonsense() -> None:
    async with network_of("a", "b") as (network, ports):
        network.target("b", "127.0.0.1:1")  # nobody listens there
        reader, writer = await asyncio.open_connection("127.0.0.1", ports["b"][0])
        assert await nothing_from(reader)
        writer.close()
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"CONNECT nowhere HTTP/1.1\r\n\r\n", b"CONNECT \xff:80 HTTP/1.1\r\n\r\n", b"x" * 70000):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports["a"][1])
            writer.write(nonsense)
            assert await nothing_from(reader)
            writer.close()


async def test_a_device_keeps_its_ports_until_it_is_removed() -> None:
    async with network_of("a") as (network, ports):
        assert await network.add("a") == ports["a"]
        reader, writer = await connected(ports["a"][0])
        await network.remove("a")
        assert network.names == ()
        await wait_until(lambda: reader.at_eof() or reader.exception() is not None)
        writer.close()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", ports["a"][0])


async def test_order_and_bytes_are_kept_whatever_is_lost() -> None:
    data = bytes(range(256)) * 1500
    async with network_of("a") as (network, ports):
        network.shape([LinkRule("*", "*", LinkShape(0.001, 0.001, 1e9, 0.002), both_ways=True)], seed=1)
        received: list[bytes] = []

        async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while piece := await reader.read(65536):
                    received.append(piece)
            finally:
                writer.close()

        async with await asyncio.start_server(collect, "127.0.0.1", 0) as server:
            network.target("a", "127.0.0.1:%d" % server.sockets[0].getsockname()[1])  # noqa: UP031
            reader, writer = await connected(ports["a"][0])
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == b""  # the far side has read to the end
            assert b"".join(received) == data
            writer.close()
