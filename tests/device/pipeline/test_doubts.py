from __future__ import annotations

import asyncio

from device.pipeline.doubts import Doubts
from protos.ids import DeviceId, PipelineId
from protos.silence import Silence

ONE, OTHER, NEAR, FAR = PipelineId("a-1"), PipelineId("b-1"), DeviceId("near"), DeviceId("far")
WELL, SUSPECT, GONE = (Silence(seconds, 0.25) for seconds in (0.0, 0.8, 1.8))


async def test_each_change_counts_once_and_wakes_all_who_wait() -> None:
    doubts = Doubts()
    assert not await doubts.changed_within(0, 0.0)
    waiting = [asyncio.create_task(doubts.changed_within(0, 60.0)) for _ in range(2)]
    await asyncio.sleep(0)
    doubts.judged(ONE, NEAR, SUSPECT)
    assert await asyncio.gather(*waiting) == [True, True]
    doubts.judged(ONE, FAR, SUSPECT)
    doubts.judged(OTHER, NEAR, SUSPECT)
    assert (doubts.of(ONE), doubts.of(OTHER), doubts.changes) == ([NEAR, FAR], [NEAR], 3)
    doubts.judged(ONE, NEAR, GONE)
    assert not await doubts.changed_within(3, 0.0)
    doubts.judged(ONE, NEAR, WELL)
    assert await doubts.changed_within(3, 60.0)
    doubts.ended(ONE, FAR)
    doubts.ended(ONE, FAR)
    assert (doubts.of(ONE), doubts.of(OTHER), doubts.changes) == ([], [NEAR], 5)
