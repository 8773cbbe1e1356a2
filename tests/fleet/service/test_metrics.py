"""What is exported is what Prometheus' own parser reads, and nothing is 0 that nobody measured."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleet.answering.views import GenerateRequest
from fleet.service.metrics import exposition, families
from fleet.telemetry.meters import RequestMeters
from fleet.telemetry.views import DeviceCost, EndedRequest, FinishedRequest, FinishReason, Source
from protos.v1 import telemetry_pb2 as pb
from tests.support.fake_coordinator import DEPLOYMENT, DEVICE
from tests.support.fake_fleet import ask, fake_fleet
from tests.support.prometheus import MISSING, dashboard

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for one in text_string_to_metric_families(text)
        for sample in one.samples
    }


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, tuple(sorted(labels.items()))))


SAMPLE = pb.TelemetrySample(
    device_id=DEVICE.device_id,
    energy=pb.EnergyCounter(source=pb.ENERGY_SOURCE_MODELLED, busy_joules=5.5, idle_joules=7.0),
    work=pb.WorkCounter(prefill_tokens=3, decode_tokens=4, busy_seconds=0.5),
)


def test_a_device_in_all_its_figures() -> None:
    view = replace(DEVICE, power_watts=6.5, temperature_celsius=41.0, throttled=True, memory_held_bytes=77, energy_source="modelled")
    found = read(exposition(families([view], [DEPLOYMENT], [], {view.device_id: SAMPLE}), RequestMeters().registry))
    name = view.name
    assert value(found, "glmfleet_devices", state="online") == 1
    assert value(found, "glmfleet_devices", state="offline") == 0
    assert value(found, "glmfleet_device_up", device=name) == 1
    assert value(found, "glmfleet_device_power_watts", device=name, source="modelled") == 6.5
    assert value(found, "glmfleet_device_temperature_celsius", device=name) == 41.0
    assert value(found, "glmfleet_device_throttled", device=name) == 1
    assert value(found, "glmfleet_device_memory_bytes", device=name, kind="held") == 77
    assert value(found, "glmfleet_device_energy_joules_total", device=name, state="busy", source="modelled") == 5.5
    assert value(found, "glmfleet_device_energy_joules_total", device=name, state="idle", source="modelled") == 7.0
    assert value(found, "glmfleet_device_rows_total", device=name, kind="decode") == 4
    assert value(found, "glmfleet_deployment_ready", deployment=DEPLOYMENT.name, model=DEPLOYMENT.model) == 1


def test_what_nobody_measured_has_no_series() -> None:
    view = replace(
        DEVICE, power_watts=0.0, temperature_celsius=None, battery_fraction=None, memory_held_bytes=None, energy_source="unmetered"
    )
    sample = pb.TelemetrySample(device_id=view.device_id, energy=pb.EnergyCounter())
    names = {name for name, _ in read(exposition(families([view], [], [], {view.device_id: sample}), RequestMeters().registry))}
    assert not names & {
        "glmfleet_device_power_watts",
        "glmfleet_device_temperature_celsius",
        "glmfleet_device_battery_ratio",
        "glmfleet_device_energy_joules_total",
    }


def test_hollow_devices_are_counted_and_not_listed() -> None:
    hollow = [replace(DEVICE, name=f"hollow-{number}", hollow=True) for number in range(2000)]
    text = exposition(families(hollow, [], [], {}), RequestMeters().registry)
    assert value(read(text), "glmfleet_devices", state="online") == 2000
    assert len(text) < 10_000


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline", "\u4e2d" * 64])
def test_any_name_is_a_label(name: str) -> None:
    found = read(exposition(families([replace(DEVICE, name=name)], [], [], {}), RequestMeters().registry))
    assert value(found, "glmfleet_device_up", device=name) == 1


ENDED = FinishedRequest(
    model="tiny",
    deployment="prod",
    finish_reason="stop",
    prompt_tokens=7,
    completion_tokens=5,
    ttft_seconds=0.03,
    tpot_seconds=0.002,
    modelled_ttft_seconds=None,
    modelled_tpot_seconds=None,
    total_seconds=0.05,
    queue_seconds=0.02,
    devices=(
        DeviceCost("a", "dev-1", "rk3588", True, 0.1, 0.2, 1.5, "modelled", 0.3),
        DeviceCost("b", "dev-2", "board", False, 0.1, None, None, "unmetered", None),
    ),
)


def ended(request: FinishedRequest = ENDED, recoveries: int = 0, recovery_seconds: float = 0.0) -> EndedRequest:
    return EndedRequest("r1", 100.0, 101.0, request, (), recoveries, recovery_seconds)


def test_requests_are_counted_by_deployment() -> None:
    meters = RequestMeters()
    meters.ended(ended())
    meters.ended(ended(recoveries=2, recovery_seconds=1.5))
    meters.ended(ended(replace(ENDED, finish_reason="error", completion_tokens=0, tpot_seconds=None)))
    found = read(exposition([], meters.registry))
    assert value(found, "glmfleet_requests_total", deployment="prod", finish_reason="stop") == 2
    assert value(found, "glmfleet_requests_total", deployment="prod", finish_reason="error") == 1
    assert value(found, "glmfleet_tokens_total", deployment="prod", kind="completion") == 10
    assert value(found, "glmfleet_request_energy_joules_total", deployment="prod", source="modelled") == 4.5
    assert value(found, "glmfleet_recoveries_total", deployment="prod") == 2
    assert value(found, "glmfleet_recovery_seconds_total", deployment="prod") == 1.5
    gen_ai = {"gen_ai_operation_name": "text_completion", "gen_ai_provider_name": "glmfleet", "gen_ai_request_model": "prod"}
    assert value(found, "gen_ai_server_time_per_output_token_seconds_bucket", le="0.0025", **gen_ai) == 2
    assert value(found, "gen_ai_server_time_to_first_token_seconds_count", **gen_ai) == 2
    assert value(found, "gen_ai_server_request_duration_seconds_count", error_type="error", **gen_ai) == 1
    assert value(found, "glmfleet_request_queue_seconds_bucket", deployment="prod", le="0.05") == 3


async def test_a_coordinator_exports_what_it_answered(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        _, result = await ask(coordinator, GenerateRequest(prompt="hi", max_tokens=6))
        found = read(coordinator.metrics())
        assert value(found, "glmfleet_tokens_total", deployment="tiny", kind="completion") == result.completion_tokens
        assert value(found, "glmfleet_devices", state="online") == 1
        assert value(found, "glmfleet_open_requests", state="running") == 0


def test_series_are_bounded_by_devices_and_deployments() -> None:
    """As docs/telemetry.md says: 20 a device, 130 a deployment, of as many as are kept."""
    one = replace(DEVICE, power_watts=1.0, temperature_celsius=1.0, memory_held_bytes=1, energy_source="modelled", battery_fraction=1.0)
    devices = [replace(one, name=f"dev-{number}", device_id=f"id-{number}") for number in range(50)]
    work = pb.WorkCounter(prefill_tokens=3, decode_tokens=4, busy_seconds=0.5, modelled_busy_seconds=0.5)
    samples = {view.device_id: pb.TelemetrySample(energy=SAMPLE.energy, work=work) for view in devices}
    fixed, whole = (len(read(exposition(families(some, [], [], samples), RequestMeters().registry))) for some in ([], devices))
    assert fixed < 20
    assert whole - fixed <= 20 * len(devices)

    meters, sizes = RequestMeters(most_deployments=5), []
    sources: tuple[Source, ...] = ("measured", "modelled", "estimated")
    reasons: tuple[FinishReason, ...] = ("stop", "length", "cancelled", "error")
    costs = tuple(DeviceCost(f"d-{source}", "x", "y", True, 0.1, 0.2, 1.5, source, 0.3) for source in sources)
    for number in range(12):
        for reason in reasons:
            each = replace(ENDED, deployment=f"try-{number}", model=f"m-{number}", finish_reason=reason, devices=costs)
            meters.ended(ended(each, recoveries=1, recovery_seconds=1.0))
        meters.ended(ended(replace(ENDED, deployment="prod")))
        sizes.append(len(read(exposition([], meters.registry))))
    assert sizes[0] <= 2 * 130
    assert sizes[4] == sizes[-1] <= 5 * 130
    found = read(exposition([], meters.registry))
    assert value(found, "glmfleet_requests_total", deployment="prod", finish_reason="stop") == 12


def full() -> str:
    meters = RequestMeters()
    meters.ended(ended(recoveries=1, recovery_seconds=1.0))
    view = replace(DEVICE, power_watts=1.0, temperature_celsius=1.0, memory_held_bytes=1, energy_source="modelled", battery_fraction=1.0)
    return exposition(families([view], [DEPLOYMENT], [], {view.device_id: SAMPLE}), meters.registry)


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_prometheus_own_linter_finds_nothing() -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=full(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_dashboard_asks_for_what_there_is() -> None:
    root = Path(__file__).resolve().parents[3]
    there = {name for name, _ in read(full())}
    panels = dashboard()["panels"]
    asked = {
        name for panel in panels for target in panel["targets"] for name in re.findall(r"(?:glmfleet|gen_ai_server)_\w+", target["expr"])
    }
    assert len(asked) >= 10
    assert asked <= there
    told = set(re.findall(r"`((?:glmfleet|gen_ai_server)_\w+)`", (root / "docs" / "telemetry.md").read_text()))
    exported = {name for name in there if not name.endswith(("_bucket", "_sum", "_count"))}
    assert exported - told == {"glmfleet_info"}
