"""How true the simulator's links are: delay and rate over loopback, set against measured.

    python -m benchmarks.links

Delay is of single messages of 64 bytes, one at a time, from one program's clock; rate is of a stream that never pauses. The first row is
a link that shapes nothing: what the way through the proxy itself takes.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sim_devices import quantities
from sim_devices.links import LinkShape
from sim_devices.proxy import Door, Lane, Way
from sim_devices.shaping import Line

MESSAGES = 60
STREAM_SECONDS = 2.0
DELAYS = ("0ms", "1ms", "5ms", "20ms", "100ms")
RATES = ("500kbit", "2mbit", "10mbit", "100mbit", "500mbit")
DELAY_TOLERANCE_SECONDS, RATE_TOLERANCE = 0.002, 0.05


@dataclass(frozen=True)
class Delay:
    set_seconds: float
    median_seconds: float
    worst_seconds: float  # the 95th percentile of how far off one message was


async def measured_delay(delay_seconds: float, messages: int = MESSAGES) -> Delay:
    seconds: list[float] = []
    async with _through(LinkShape(delay_seconds=delay_seconds)) as (writer, reader):
        for _ in range(messages):
            writer.write(struct.pack("d", time.perf_counter()).ljust(64))
            (sent,) = struct.unpack_from("d", await reader.readexactly(64))
            seconds.append(time.perf_counter() - sent)
            await asyncio.sleep(0.0037)  # not in step with the loop's milliseconds
    errors = sorted(abs(each - delay_seconds) for each in seconds)
    return Delay(delay_seconds, statistics.median(seconds), errors[int(0.95 * len(errors))])


async def measured_rate(bits_per_second: float, stream_seconds: float = STREAM_SECONDS) -> float:
    """Bits in a second, from the first bytes that come until the last."""
    async with _through(LinkShape(rate_bits_per_second=bits_per_second)) as (writer, reader):
        sending = asyncio.create_task(_send(writer))
        try:
            await reader.readexactly(1)
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < stream_seconds:
                count += len(await reader.read(65536))
            return count * 8 / (time.perf_counter() - start)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def _send(writer: asyncio.StreamWriter) -> None:
    data = bytes(65536)
    while True:
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def _through(there: LinkShape) -> AsyncIterator[tuple[asyncio.StreamWriter, asyncio.StreamReader]]:
    """A connection over a shaped line: what is written to the writer comes out of the reader at its far end."""
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda reader, writer: accepted.set_result((reader, writer)), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    lanes = [Lane(Line(shape, there.delay_seconds, random.Random(1))) for shape in (there, LinkShape())]

    async def find(_reader: asyncio.StreamReader) -> Way:
        return Way(host, port, lanes[0], lanes[1])

    async with Door(find) as door:
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
        reader, far_writer = await accepted
        try:
            yield writer, reader
        finally:
            writer.transport.abort()
            far_writer.transport.abort()
            server.close()


async def _main() -> int:
    failed = False
    print(f"{'delay set':>12}  {'median':>10}  {'95 % within':>11}")
    for text in DELAYS:
        delay = await measured_delay(quantities.seconds(text))
        failed |= abs(delay.median_seconds - delay.set_seconds) > DELAY_TOLERANCE_SECONDS
        print(f"{text:>12}  {delay.median_seconds * 1e3:7.2f} ms  {delay.worst_seconds * 1e3:8.2f} ms")
    print(f"\n{'rate set':>12}  {'measured':>12}  {'off by':>7}")
    for text in RATES:
        wanted = quantities.bits_per_second(text)
        found = await measured_rate(wanted)
        failed |= abs(found / wanted - 1) > RATE_TOLERANCE
        print(f"{text:>12}  {found / 1e6:7.2f} mbit  {100 * (found / wanted - 1):+6.2f} %")
    print(f"\n{'NOT ' if failed else ''}within {RATE_TOLERANCE:.0%} of rate and {DELAY_TOLERANCE_SECONDS * 1e3:.0f} ms of delay")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(asyncio.run(_main()))
