"""The real Prometheus scrapes a fleet: what it keeps is what the fleet's own API says, and the dashboard's questions have answers."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from fleet.access import NewKey
from fleet.answering.views import GenerateRequest
from fleet.api.app import create_app
from fleet.service.coordinator import Coordinator
from protos.v1 import telemetry_pb2
from tests.support.fake_fleet import ask, fake_fleet
from tests.support.http_server import serving
from tests.support.prometheus import MISSING, Prometheus, dashboard, prometheus

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

FIELDS = {
    "glmfleet_device_power_watts": "power_watts",
    "glmfleet_device_temperature_celsius": "temperature_celsius",
    "glmfleet_device_memory_bytes": "memory_held_bytes",
}
GAUGES = telemetry_pb2.Gauges(power_watts=6.5, temperature_celsius=41.5, memory_held_bytes=1 << 20)


async def test_a_scrape_is_what_the_fleet_says_itself(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet:
        for device in fleet.devices:
            device.is_told.gauges = GAUGES
        async with fleet.deployed(stages=2) as coordinator:
            key = (await coordinator.new_key(NewKey("prometheus", "viewer"))).key
            async with serving(create_app(coordinator, authenticate=coordinator.authenticator("of the home"))) as url:
                # As docs/telemetry.md has it.
                target = f'authorization: {{credentials: "{key}"}}, static_configs: [{{targets: ["{urlsplit(url).netloc}"]}}]'
                with prometheus(tmp_path / "prometheus", f"{{job_name: glmfleet, {target}}}") as there:
                    async with there.http, httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}) as own:
                        await _compare(coordinator, there, own)


async def _compare(coordinator: Coordinator, there: Prometheus, own: httpx.AsyncClient) -> None:
    await there.scraped(1)
    asked = [await ask(coordinator, GenerateRequest(prompt="hi", max_tokens=6)) for _ in range(3)]
    await there.scraped(3)  # two of them began after the last answer
    assert (await there.target())["health"] == "up"
    devices = (await own.get("/api/v1/devices")).json()
    assert await there.value('glmfleet_devices{state="online"}') == len(devices) == 2
    for device in devices:
        for name, field in FIELDS.items():
            labels = f'device="{device["name"]}"' + (', kind="held"' if "memory" in name else "")
            assert await there.value(f"{name}{{{labels}}}") == device[field], name
    (cost,) = (await own.get("/api/v1/telemetry", params={"by": "deployment"})).json()
    assert await there.value('glmfleet_tokens_total{kind="completion"}') == cost["completion_tokens"]
    assert cost["completion_tokens"] == sum(result.completion_tokens for _, result in asked)
    assert await there.value('glmfleet_requests_total{finish_reason="stop"}') == cost["requests"] == 3
    assert await there.value("glmfleet_request_energy_joules_total") == pytest.approx(cost["busy_joules"])
    for histogram in ("gen_ai_server_time_to_first_token_seconds", "glmfleet_request_queue_seconds"):
        assert await there.value(f"{histogram}_count") == 3
    for panel in dashboard()["panels"]:
        found = [await there.query(one["expr"]) for one in panel["targets"]]
        assert any(found) or "break" in panel["title"], panel["title"]
