"""What Prometheus scrapes, as OpenTelemetry's data: the same series, so that there is one list of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from opentelemetry.sdk.metrics import export as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

# A suffix of Prometheus is a unit (UCUM) of OpenTelemetry.
UNITS = {"seconds": "s", "joules": "J", "bytes": "By", "watts": "W", "celsius": "Cel", "ratio": "1"}
# Names of the semantic conventions of generative AI, whose words a dot does not part everywhere.
GEN_AI = {
    name.replace(".", "_"): name
    for name in ("gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token", "gen_ai.server.request.duration")
}
ATTRIBUTES = {
    name.replace(".", "_"): name for name in ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "error.type")
}
# Their counters begin when a device's agent does, which the series do not say; the others begin with the coordinator.
OF_DEVICES = "glmfleet_device_"


def metrics_data(text: str, resource: Resource, scope: InstrumentationScope, began: int, now: int) -> otel.MetricsData:
    """Of Prometheus' text format. `began`: when the coordinator's counters did; both in unix nanoseconds."""
    metrics = [_metric(family, 0 if family.name.startswith(OF_DEVICES) else began, now) for family in text_string_to_metric_families(text)]
    of_scope = otel.ScopeMetrics(scope, [metric for metric in metrics if metric.data.data_points], "")
    return otel.MetricsData([otel.ResourceMetrics(resource, [of_scope], "")])


def name_of(prometheus: str) -> tuple[str, str]:
    """OpenTelemetry's name, and the unit.

    >>> name_of("gen_ai_server_time_to_first_token_seconds"), name_of("glmfleet_device_power_watts"), name_of("glmfleet_devices")
    (('gen_ai.server.time_to_first_token', 's'), ('glmfleet.device.power', 'W'), ('glmfleet.devices', '1'))
    """
    stem, _, last = prometheus.rpartition("_")
    stem, unit = (stem, UNITS[last]) if last in UNITS else (prometheus, "1")
    return GEN_AI.get(stem, stem.replace("_", ".")), unit


def _metric(family: Metric, began: int, now: int) -> otel.Metric:
    name, unit = name_of(family.name)
    data: otel.Sum | otel.Gauge | otel.Histogram
    if family.type == "histogram":
        data = otel.Histogram(list(_histograms(family.samples, began, now)), otel.AggregationTemporality.CUMULATIVE)
    elif family.type == "counter":
        points = [otel.NumberDataPoint(_attributes(one.labels), began, now, one.value) for one in family.samples]
        data = otel.Sum(points, otel.AggregationTemporality.CUMULATIVE, is_monotonic=True)
    else:
        data = otel.Gauge([otel.NumberDataPoint(_attributes(one.labels), 0, now, one.value) for one in family.samples])
    return otel.Metric(name, family.documentation, unit, data)


def _histograms(samples: Sequence[Sample], began: int, now: int) -> Iterator[otel.HistogramDataPoint]:
    """Prometheus counts what is below each bound, OpenTelemetry what is between two."""
    series: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    for one in samples:
        labels = tuple(sorted((name, value) for name, value in one.labels.items() if name != "le"))
        series.setdefault(labels, {})[one.labels.get("le") or one.name.rpartition("_")[2]] = one.value
    for labels, found in series.items():
        total, count = found.pop("sum"), found.pop("count")
        below = sorted((float(bound), int(value)) for bound, value in found.items())
        between = [value - before for (_, value), before in zip(below, [0, *(value for _, value in below)], strict=False)]
        yield otel.HistogramDataPoint(
            _attributes(dict(labels)),
            began,
            now,
            int(count),
            total,
            between,
            [bound for bound, _ in below[:-1]],  # the last has none
            None,  # type: ignore[arg-type] # the least and the greatest are not known, and optional on the wire
            None,  # type: ignore[arg-type]
        )


def _attributes(labels: Mapping[str, str]) -> dict[str, str]:
    """Without those that say nothing."""
    return {ATTRIBUTES.get(name, name): value for name, value in labels.items() if value}
