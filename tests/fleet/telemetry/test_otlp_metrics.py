"""Prometheus' series as OpenTelemetry's: histograms between bounds, units, the names of the conventions."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.metrics import export as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from fleet.service.metrics import exposition
from fleet.telemetry.meters import TTFT_BUCKETS, RequestMeters
from fleet.telemetry.otlp_metrics import metrics_data, name_of
from tests.fleet.telemetry.test_otlp_traces import ENDED

BEGAN, NOW = 1_000, 2_000


def data(text: str) -> dict[str, otel.Metric]:
    (of_resource,) = metrics_data(text, Resource({}), InstrumentationScope("x"), BEGAN, NOW).resource_metrics
    return {metric.name: metric for scope in of_resource.scope_metrics for metric in scope.metrics}


def test_a_histogram_counts_between_its_bounds() -> None:
    meters = RequestMeters()
    for _ in range(3):
        meters.ended(ENDED)
    first = data(exposition([], meters.registry))["gen_ai.server.time_to_first_token"]
    assert first.unit == "s"
    assert isinstance(first.data, otel.Histogram)
    (point,) = first.data.data_points
    assert tuple(point.explicit_bounds) == TTFT_BUCKETS
    assert (point.count, point.sum) == (3, 3 * 0.75)
    assert list(point.bucket_counts) == [3 if bound == 0.75 else 0 for bound in TTFT_BUCKETS] + [0]
    assert point.attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "glmfleet",
        "gen_ai.request.model": "prod",
    }
    assert (point.start_time_unix_nano, point.time_unix_nano) == (BEGAN, NOW)


def test_counters_grow_and_gauges_do_not() -> None:
    found = data(
        "# TYPE glmfleet_device_energy_joules_total counter\n"
        'glmfleet_device_energy_joules_total{device="a",state="busy",source="modelled"} 2.5\n'
        "# TYPE glmfleet_device_power_watts gauge\n"
        'glmfleet_device_power_watts{device="a",source="modelled"} 6.5\n'
        "# TYPE glmfleet_deployment_ready gauge\n"
    )
    assert found.keys() == {"glmfleet.device.energy", "glmfleet.device.power"}
    energy = found["glmfleet.device.energy"].data
    assert isinstance(energy, otel.Sum)
    assert energy.is_monotonic
    assert energy.aggregation_temporality is otel.AggregationTemporality.CUMULATIVE
    assert energy.data_points[0].start_time_unix_nano == 0  # the agent's start, which nobody tells
    assert isinstance(found["glmfleet.device.power"].data, otel.Gauge)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("gen_ai_server_request_duration_seconds", ("gen_ai.server.request.duration", "s")),
        ("gen_ai_server_time_per_output_token_seconds", ("gen_ai.server.time_per_output_token", "s")),
        ("glmfleet_device_memory_bytes", ("glmfleet.device.memory", "By")),
        ("glmfleet_device_temperature_celsius", ("glmfleet.device.temperature", "Cel")),
        ("glmfleet_open_requests", ("glmfleet.open.requests", "1")),
    ],
)
def test_names_lose_their_unit_and_have_dots(name: str, wanted: tuple[str, str]) -> None:
    assert name_of(name) == wanted
