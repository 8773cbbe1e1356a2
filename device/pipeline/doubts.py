"""Which neighbours in rings are silent now, and news of that."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field

from protos.ids import DeviceId, PipelineId
from protos.silence import Silence

_log = logging.getLogger(__name__)


@dataclass
class Doubts:
    """Of one device. They change nothing by themselves: a stream ends when its far side is gone, not before."""

    changes: int = 0  # until now
    _silent: dict[tuple[PipelineId, DeviceId], None] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def judged(self, pipeline: PipelineId, neighbour: DeviceId, silence: Silence) -> None:
        """What is thought of a neighbour in a pipeline's ring from now on."""
        if silence.verdict == "well":
            self.ended(pipeline, neighbour)
        elif (pipeline, neighbour) not in self._silent:
            _log.info("%s: neighbour %s is %s", pipeline, neighbour, silence)
            self._silent[pipeline, neighbour] = None
            self._tell()

    def ended(self, pipeline: PipelineId, neighbour: DeviceId) -> None:
        """The stream has: nothing is thought of it any more."""
        if (pipeline, neighbour) in self._silent:
            del self._silent[pipeline, neighbour]
            self._tell()

    def of(self, pipeline: PipelineId) -> list[DeviceId]:
        return [neighbour for one, neighbour in self._silent if one == pipeline]

    async def changed_within(self, changes: int, seconds: float) -> bool:
        """Wait until there were more `changes` than these, for so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.changes <= changes:
                    await self._news.wait()
        return self.changes > changes

    def _tell(self) -> None:
        self.changes += 1
        self._news.set()
        self._news = asyncio.Event()
