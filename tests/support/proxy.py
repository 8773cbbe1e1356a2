"""A simulated device's door (sim_devices.proxy) as fault tests turn it: delay, stall, cut."""

from __future__ import annotations

import asyncio
import random
from typing import Self

from protos.net.transport import split_address
from sim_devices.links import LinkShape
from sim_devices.proxy import Door, Lane, Way
from sim_devices.shaping import Line


class Proxy(Door):
    """Passes what comes to `address` on to "host:port" `target`.

    `delay_seconds` is of each direction; `lives` lists, for the connections to come, how many bytes towards the target each lives.
    """

    def __init__(self, target: str) -> None:
        super().__init__(self._to_target)
        self._target = target
        self._lanes: tuple[Lane, Lane]  # there and back

    async def __aenter__(self) -> Self:
        self._lanes = (_open_lane(), _open_lane())
        return await super().__aenter__()

    @property
    def target(self) -> str:
        return self._target

    @property
    def delay_seconds(self) -> float:
        return self._lanes[0].line.shape.delay_seconds

    @delay_seconds.setter
    def delay_seconds(self, seconds: float) -> None:
        for lane in self._lanes:
            lane.line.reshape(LinkShape(delay_seconds=seconds), 2 * seconds)

    def stall(self) -> None:
        """From now on nothing passes, and nobody is told: a cable pulled."""
        for lane in self._lanes:
            lane.cut = True

    def resume(self) -> None:
        """What waited passes."""
        for lane in self._lanes:
            lane.cut = False

    async def cut(self) -> None:
        """Reset what is connected now; new connections are taken."""
        await self.reset()

    async def _to_target(self, _reader: asyncio.StreamReader) -> Way:
        return Way(*split_address(self._target), *self._lanes)


def _open_lane() -> Lane:
    """Passes everything at once."""
    return Lane(Line(LinkShape(), 0.0, random.Random(0)))
