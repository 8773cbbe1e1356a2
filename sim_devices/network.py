"""The links of a local fleet: doors of each device, and the lane between any two ends.

A device announces its front door instead of its own port, so who dials it from outside (the coordinator) comes that way. It dials
itself through its back door: gRPC in its process is told so by `grpc_proxy`, asks there for the neighbour's front by HTTP CONNECT, and so
tells who dials whom, though TLS hides who speaks. mDNS is not shaped: it only says where to try.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from protos.errors import InvalidInput
from protos.net.transport import split_address
from sim_devices.faults import COORDINATOR
from sim_devices.links import LinkRule, shape_between
from sim_devices.proxy import Door, Lane, Way
from sim_devices.shaping import Line

_CONNECTED = b"HTTP/1.1 200 OK\r\n\r\n"


@dataclass
class _Doors:
    front: Door
    back: Door
    target: tuple[str, int] | None
    stack: AsyncExitStack


class ShapedNetwork:
    """Lives in one event loop. Ends are names of devices; everybody else is "coordinator"."""

    def __init__(self) -> None:
        self._rules: tuple[LinkRule, ...] = ()
        self._seed = 0
        self._doors: dict[str, _Doors] = {}
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._cuts: frozenset[frozenset[str]] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._doors)

    def shape(self, rules: Sequence[LinkRule], seed: int) -> None:
        """These rules, after those there are: of all, the last that covers a link counts."""
        self._rules = (*self._rules, *rules)
        self._seed = seed
        for (source, target), lane in self._lanes.items():
            lane.line.reshape(shape_between(self._rules, source, target), self._round_trip(source, target))

    def cut(self, pairs: Collection[frozenset[str]]) -> None:
        """From now on nothing passes between the ends of these, and all others pass."""
        self._cuts = frozenset(pairs)
        for ends, lane in self._lanes.items():
            lane.cut = frozenset(ends) in self._cuts

    async def add(self, name: str, host: str = "127.0.0.1") -> tuple[int, int]:
        """The ports on `host` of a device's front and back doors; those it has, if it was here before."""
        if name not in self._doors:
            async with AsyncExitStack() as stack:
                front = await stack.enter_async_context(Door(partial(self._from_outside, name), host))
                back = await stack.enter_async_context(Door(partial(self._from_inside, name), host))
                self._doors[name] = _Doors(front, back, None, stack.pop_all())
        return self._doors[name].front.port, self._doors[name].back.port

    def target(self, name: str, address: str) -> None:
        """Where the device itself listens."""
        self._doors[name].target = split_address(address)

    async def remove(self, name: str) -> None:
        if doors := self._doors.pop(name, None):
            await doors.stack.aclose()

    async def close(self) -> None:
        for name in list(self._doors):
            await self.remove(name)

    def lane(self, source: str, target: str) -> Lane:
        if (source, target) not in self._lanes:
            chance = random.Random(f"{self._seed}/{source}/{target}")  # nosec B311 # the same every time
            line = Line(shape_between(self._rules, source, target), self._round_trip(source, target), chance)
            lane = self._lanes[source, target] = Lane(line)
            lane.cut = frozenset((source, target)) in self._cuts
        return self._lanes[source, target]

    def _round_trip(self, source: str, target: str) -> float:
        return sum(shape_between(self._rules, *ends).delay_seconds for ends in ((source, target), (target, source)))

    async def _from_outside(self, name: str, _reader: asyncio.StreamReader) -> Way | None:
        return self._way(COORDINATOR, name, *(self._doors[name].target or ("", 0)))

    async def _from_inside(self, name: str, reader: asyncio.StreamReader) -> Way | None:
        """Of "CONNECT host:port HTTP/1.1"; refused by a reset, which gRPC takes more calmly than a status."""
        words = (await reader.readuntil(b"\r\n\r\n")).split(maxsplit=2)
        if words[0] != b"CONNECT":
            return None
        try:
            host, port = split_address(words[1].decode("ascii"))
        except (InvalidInput, UnicodeDecodeError):
            return None
        for other, doors in self._doors.items():
            if doors.front.port == port:
                return self._way(name, other, *(doors.target or ("", 0)), greeting=_CONNECTED)
        return self._way(name, COORDINATOR, host, port, greeting=_CONNECTED)

    def _way(self, source: str, target: str, host: str, port: int, greeting: bytes = b"") -> Way | None:
        if not port:
            return None
        return Way(host, port, self.lane(source, target), self.lane(target, source), greeting)
