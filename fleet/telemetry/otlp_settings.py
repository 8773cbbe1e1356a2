"""Whether and where an OpenTelemetry receiver is told of this fleet: by an option, or by OpenTelemetry's own environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from protos.errors import InvalidInput

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"  # and of each kind its own; the library reads them itself, with headers and certificates
TRACES_ENDPOINT, METRICS_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
TRACES, METRICS = "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"  # "none": not of this kind
INTERVAL, DISABLED = "OTEL_METRIC_EXPORT_INTERVAL", "OTEL_SDK_DISABLED"
INTERVAL_SECONDS = 60.0  # OpenTelemetry's default


@dataclass(frozen=True)
class OtlpSettings:
    """`endpoint`: a base URL; None: each kind's is in the environment. `interval_seconds`: between two sendings of the metrics."""

    endpoint: str | None
    traces: bool = True
    metrics: bool = True
    interval_seconds: float = INTERVAL_SECONDS


def otlp_settings(endpoint: str | None, environment: Mapping[str, str]) -> OtlpSettings | None:
    """None where nobody wants it. Raises InvalidInput.

    >>> otlp_settings(None, {}), otlp_settings("http://127.0.0.1:4318", {INTERVAL: "5000"})
    (None, OtlpSettings(endpoint='http://127.0.0.1:4318', traces=True, metrics=True, interval_seconds=5.0))
    """
    if environment.get(DISABLED, "").lower() == "true":
        return None
    if endpoint is not None and not (urlsplit(endpoint).scheme in ("http", "https") and urlsplit(endpoint).hostname):
        raise InvalidInput(f"{endpoint!r} is no receiver's URL", advice="write for example http://127.0.0.1:4318")
    base = endpoint or environment.get(ENDPOINT)
    traces = bool(base or environment.get(TRACES_ENDPOINT)) and environment.get(TRACES) != "none"
    metrics = bool(base or environment.get(METRICS_ENDPOINT)) and environment.get(METRICS) != "none"
    return OtlpSettings(endpoint, traces, metrics, _interval(environment)) if traces or metrics else None


def _interval(environment: Mapping[str, str]) -> float:
    text = environment.get(INTERVAL)
    if text and not (text.isdecimal() and int(text)):
        raise InvalidInput(f"{INTERVAL} is {text!r}", advice="it is a number of milliseconds")
    return int(text) / 1000 if text else INTERVAL_SECONDS
