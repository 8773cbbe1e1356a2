"""Where an OpenTelemetry receiver is named, and how it is switched off."""

from __future__ import annotations

import pytest

from fleet.telemetry.otlp_settings import OtlpSettings, otlp_settings
from protos.errors import InvalidInput

URL = "http://127.0.0.1:4318"
BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": URL}


@pytest.mark.parametrize(
    ("endpoint", "environment", "settings"),
    [
        (None, {}, None),
        (None, {"OTEL_EXPORTER_OTLP_HEADERS": "a=b"}, None),
        (None, BASE, OtlpSettings(None)),
        (URL, {}, OtlpSettings(URL)),
        (URL, {"OTEL_SDK_DISABLED": "true"}, None),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{URL}/v1/traces"}, OtlpSettings(None, metrics=False)),
        (None, {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{URL}/v1/metrics"}, OtlpSettings(None, traces=False)),
        (None, BASE | {"OTEL_METRICS_EXPORTER": "none"}, OtlpSettings(None, metrics=False)),
        (URL, {"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "none"}, None),
        (URL, {"OTEL_METRIC_EXPORT_INTERVAL": "1500"}, OtlpSettings(URL, interval_seconds=1.5)),
    ],
)
def test_it_is_off_unless_a_receiver_is_named(endpoint: str | None, environment: dict[str, str], settings: OtlpSettings | None) -> None:
    assert otlp_settings(endpoint, environment) == settings


@pytest.mark.parametrize(("endpoint", "interval"), [("collector:4318", ""), ("http://", ""), (URL, "soon"), (URL, "0")])
def test_what_is_no_url_and_no_interval_is_refused(endpoint: str, interval: str) -> None:
    with pytest.raises(InvalidInput):
        otlp_settings(endpoint, {"OTEL_METRIC_EXPORT_INTERVAL": interval})
