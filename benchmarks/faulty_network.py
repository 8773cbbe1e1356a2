"""The network in memory with distance in it: messages take their time, links are cut in either direction, programs die.

What crosses between two programs keeps its order on one call and may overtake on another. While a link is cut what was sent waits, as with
TCP, and neither side learns that the other has ended the call.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import grpc

from protos.ids import DeviceId
from protos.net.memory import MemoryNetwork
from protos.net.memory_call import Wire
from protos.net.transport import Credentials

Names = tuple[str, str]  # from, to


@dataclass
class Lane:
    """One direction between two programs."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    cuts: int = 0

    def __post_init__(self) -> None:
        self.open.set()

    def cut(self) -> None:
        self.cuts += 1
        self.open.clear()

    def heal(self) -> None:
        self.cuts -= 1
        if not self.cuts:
            self.open.set()


class FaultyNetwork(MemoryNetwork):
    def __init__(self, names: dict[DeviceId, str], chance: random.Random) -> None:
        """`names` of all that dial or serve."""
        super().__init__()
        self._names = names
        self._chance = chance
        self._lanes: dict[Names, Lane] = {}
        self._at: dict[str, str] = {}  # names, by their addresses
        self._callers: dict[int, str] = {}
        self._crossings: dict[_Crossing, None] = {}  # in the order in which they came

    def know(self, name: str, credentials: Credentials, address: str = "") -> None:
        self._callers[id(credentials)] = name
        if address:
            self._at[address] = name

    def lane(self, source: str, target: str) -> Lane:
        return self._lanes.setdefault((source, target), Lane())

    def between(self, one: str, other: str, *, both: bool = True) -> list[Lane]:
        return [self.lane(one, other), *([self.lane(other, one)] if both else [])]

    def around(self, name: str) -> list[Lane]:
        others = {other for other in self._names.values() if other != name}
        return [lane for other in sorted(others) for lane in self.between(name, other)]

    def delay(self) -> float:
        return self._chance.choice((0.0002, 0.001, 0.001, 0.005, 0.005, 0.04))

    def die(self, name: str) -> None:
        """All its connections end; it says nothing more."""
        for crossing in list(self._crossings):
            if name in crossing.ends:
                crossing.break_off()

    def crossing(self, wire: Wire, address: str, caller: Credentials | None) -> Wire:
        source, target = self._callers[id(caller)], self._at[address]
        made = _Crossing(self, wire, source, target)
        self._crossings[made] = None
        made.over.append(lambda: self._crossings.pop(made, None))
        return made.far


class _Crossing:
    """A call whose two sides hold wires of their own."""

    def __init__(self, network: FaultyNetwork, near: Wire, source: str, target: str) -> None:
        self.ends = {source, target}
        self.far = Wire()
        self.over: list[Callable[[], object]] = []
        self._network = network
        self._near = near
        there, back = network.lane(source, target), network.lane(target, source)
        self._tasks = [
            asyncio.create_task(self._carry(near.requests.get, self.far.requests.push, self.far.requests.end, there)),
            asyncio.create_task(self._carry_back(back)),
        ]
        self._loose: dict[asyncio.Task[None], None] = {}
        near.when_ended(lambda: self._later(self._end_far(there)))

    def break_off(self) -> None:
        for wire in (self._near, self.far):
            wire.end(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        for task in (*self._tasks, *self._loose):
            task.cancel()
        self._close()

    def _close(self) -> None:
        for tell in self.over:
            tell()
        self.over = []

    def _later(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._loose[task] = None
        task.add_done_callback(lambda done: self._loose.pop(done, None))

    async def _end_far(self, lane: Lane) -> None:
        """The client has left."""
        await asyncio.sleep(self._network.delay())
        await lane.open.wait()
        self.far.end(grpc.StatusCode.CANCELLED, "the client has left", cancelled=True)
        for task in self._tasks:
            task.cancel()
        self._close()

    async def _carry(self, get: object, push: Callable[[bytes], None], end: Callable[[], None], lane: Lane) -> None:
        flying: deque[tuple[float, bytes | None]] = deque()
        news, clock = asyncio.Event(), asyncio.get_running_loop().time

        async def take() -> None:
            last = 0.0
            while True:
                message = await get()  # type: ignore[operator]
                last = max(last, clock() + self._network.delay())
                flying.append((last, message))
                news.set()
                if message is None:
                    return

        taking = asyncio.create_task(take())
        try:
            while True:
                while not flying:
                    news.clear()
                    await news.wait()
                at, message = flying[0]
                await asyncio.sleep(max(0.0, at - clock()))
                await lane.open.wait()
                flying.popleft()
                if message is None:
                    end()
                    return
                with suppress(asyncio.InvalidStateError):
                    push(message)
        finally:
            taking.cancel()

    async def _carry_back(self, lane: Lane) -> None:
        await self._carry(self.far.responses.get, self._near.responses.push, lambda: None, lane)
        while self.far.code is None:
            over = asyncio.Event()
            self.far.when_ended(over.set)
            await over.wait()
        await lane.open.wait()
        self._near.end(self.far.code, self.far.details, self.far.trailing)
        self._close()


def all_lanes(lanes: list[Lane], change: Callable[[Lane], None]) -> None:
    for lane in lanes:
        change(lane)
