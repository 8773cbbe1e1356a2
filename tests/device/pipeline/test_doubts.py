from __future__ import annotations

from device.pipeline.doubts import Doubts
from protos.ids import DeviceId, PipelineId
from protos.silence import Silence

ONE, OTHER, NEAR, FAR = PipelineId("a-1"), PipelineId("b-1"), DeviceId("near"), DeviceId("far")
WELL, SUSPECT, GONE = (Silence(seconds, 0.25) for seconds in (0.0, 0.8, 1.8))


async def test_each_change_is_news_once() -> None:
    doubts = Doubts()
    assert not await doubts.news_within(0.0)
    doubts.judged(ONE, NEAR, SUSPECT)
    doubts.judged(ONE, FAR, SUSPECT)
    doubts.judged(OTHER, NEAR, SUSPECT)
    assert await doubts.news_within(60.0)
    assert not await doubts.news_within(0.0)
    assert (doubts.of(ONE), doubts.of(OTHER)) == ([NEAR, FAR], [NEAR])
    doubts.judged(ONE, NEAR, GONE)
    assert not await doubts.news_within(0.0)
    doubts.judged(ONE, NEAR, WELL)
    assert await doubts.news_within(60.0)
    doubts.ended(ONE, FAR)
    doubts.ended(ONE, FAR)
    assert (doubts.of(ONE), doubts.of(OTHER)) == ([], [NEAR])
