"""A real receiver reads what is sent to it by OTLP, and one that is away, slow or out of order holds up nobody."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from fleet.answering.views import GenerateRequest
from fleet.telemetry import otlp
from fleet.telemetry.otlp import OtlpExport
from fleet.telemetry.otlp_settings import OtlpSettings
from tests.fleet.telemetry.test_otlp_traces import ENDED
from tests.support.fake_fleet import ask, fake_fleet
from tests.support.otlp_receiver import attributes, receiving
from tests.support.waiting import wait_until

TEXT = """# HELP glmfleet_devices Devices of the fleet.
# TYPE glmfleet_devices gauge
glmfleet_devices{state="online"} 3.0
"""


async def test_a_fleet_tells_a_receiver_of_its_requests_and_its_figures(tmp_path: Path) -> None:
    with receiving() as receiver:
        async with (
            fake_fleet(tmp_path, 2) as fleet,
            fleet.deployed(stages=2) as coordinator,
            OtlpExport(coordinator.metrics, OtlpSettings(receiver.url, interval_seconds=0.1)) as export,
        ):
            coordinator.observers.append(export)
            _, result = await ask(coordinator, GenerateRequest(prompt="a secret", max_tokens=6))
            await wait_until(lambda: "glmfleet.tokens" in receiver.metrics)
        (root,) = [span for span in receiver.spans if not span.parent_span_id]
        told = attributes(root.attributes)
        assert told["gen_ai.response.id"] == result.request_id
        assert told["gen_ai.usage.output_tokens"] == result.completion_tokens == 2
        assert told["gen_ai.request.model"] == "tiny"
        assert {span.trace_id for span in receiver.spans} == {root.trace_id}
        assert {span.name for span in receiver.spans if span.parent_span_id == root.span_id} >= {"prompt", "queue", "stage 0"}
        assert receiver.resource["service.name"] == "glmfleet"
        points = {attributes(point.attributes)["kind"]: point for point in receiver.metrics["glmfleet.tokens"].sum.data_points}
        assert points["completion"].as_double == 2
        first = receiver.metrics["gen_ai.server.time_to_first_token"]
        assert (first.unit, first.histogram.data_points[0].count) == ("s", 1)
        assert b"secret" not in b"".join(span.SerializeToString() for span in receiver.spans)


@pytest.mark.parametrize("trouble", ["away", "slow", "refuses"])
async def test_a_receiver_in_trouble_holds_up_nobody(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "FLUSH_SECONDS", 0.2)
    with receiving() as receiver:
        receiver.status = 503 if trouble == "refuses" else 200
        receiver.holds = release = threading.Event()
        if trouble != "slow":
            release.set()
        url = "http://127.0.0.1:9" if trouble == "away" else receiver.url
        async with OtlpExport(lambda: TEXT, OtlpSettings(url, interval_seconds=0.02)) as export:
            begun = time.monotonic()
            for _ in range(3 * otlp.WAITING):
                export.ended(ENDED)
            assert time.monotonic() - begun < 4.0
            await asyncio.sleep(0.1)
            begun = time.monotonic()
        assert time.monotonic() - begun < 8.0  # the library itself would try for ten seconds, and wait for thirty
        release.set()
