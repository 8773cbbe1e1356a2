from __future__ import annotations

import pytest

from benchmarks.links import measured_delay, measured_rate


async def test_delay_and_rate_are_measured_through_a_real_proxy() -> None:
    """Coarsely: a busy machine is late, never early."""
    delay = await measured_delay(0.02, messages=5)
    assert 0.019 < delay.median_seconds < 0.2
    assert await measured_rate(4e6, stream_seconds=0.3) == pytest.approx(4e6, rel=0.3)
